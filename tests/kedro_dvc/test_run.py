"""DVC's reproduce in one process: what runs where, in which order, and what is measured."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import pytest
import yaml
from dvc.exceptions import ReproductionError
from dvc.repo import Repo

from kedro_dvc.executors.local import LocalProcesses
from kedro_dvc.files import WorkflowError
from kedro_dvc.run import Outcome, reading_order, reproduce

ROOT = Path(__file__).parents[2]
TWO_STEPS = """\
stages:
  begin: {cmd: echo begun > begun, outs: [begun]}
  train:
    matrix: {way: [second, first]}
    cmd: mkdir -p ${item.way} && cp begun ${item.way}/model
    deps: [begun]
    outs: ["${item.way}/model"]
  check:
    matrix: {way: [first, second]}
    cmd: cp ${item.way}/model ${item.way}/score
    deps: ["${item.way}/model"]
    outs: ["${item.way}/score"]
  compare: {cmd: cat first/score second/score > all, deps: [first/score, second/score], outs: [all]}
"""


WAYS = ("first", "second")


@dataclass(frozen=True)
class _Stage:
    addressing: str
    repo: Any = field(hash=False)


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.begun: list[str] = []
        self.outcomes: list[Outcome] = []

    def planned(self, stages: list[str]) -> None:
        self.stages = stages

    def began(self, stage: str) -> None:
        self.begun.append(stage)

    def waits(self, why: str) -> None:
        raise AssertionError(why)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture
def project(empty_project: Path) -> Path:
    """A project with two stages."""
    (empty_project / "dvc.yaml").write_text(TWO_STEPS)
    return empty_project


def _reproduced(project: Path, *targets: str, **options: Any) -> Notes:
    notes = Notes()
    reproduce(project, list(targets) or ["dvc.yaml"], notes, **options)
    return notes


def test_the_stages_of_an_item_go_together_in_the_order_of_the_first_matrix(project):
    """DVC itself goes through all of `train` first, in whichever order its graph has them."""
    notes = _reproduced(project)

    order = ["begin", "train@second", "check@second", "train@first", "check@first", "compare"]
    assert notes.stages == notes.begun == order
    assert [(one.stage, one.what) for one in notes.outcomes] == [(name, "ran") for name in order]
    assert all(one.memory > 0 for one in notes.outcomes)


def test_what_has_run_is_unchanged_and_what_was_before_is_restored(project):
    _reproduced(project)
    assert {one.what for one in _reproduced(project).outcomes} == {"unchanged"}

    (project / "dvc.lock").unlink()

    began, *others = _reproduced(project, "compare").outcomes
    assert began.what == "ran"  # DVC's run-cache knows no stages that read nothing
    assert {one.what for one in others} == {"restored"}


def test_data_that_dvc_add_tracks_are_noted_when_they_were_edited(project):
    """Nothing has run for them and nothing was restored: their .dvc file gets another hash."""
    (project / "given").write_text("1\n")
    (project / "dvc.yaml").write_text(
        "stages: {read: {cmd: cp given read, deps: [given], outs: [read]}}\n"
    )
    with Repo() as repo:
        repo.add("given")
    _reproduced(project)
    (project / "given").write_text("22\n")

    edited = _reproduced(project)

    assert [one.what for one in edited.outcomes] == ["noted", "ran"]
    assert [one.what for one in _reproduced(project).outcomes] == ["unchanged", "unchanged"]


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_command_may_be_a_list_or_what_only_a_shell_can_read(project, jobs):
    stages = {
        "several": {"cmd": ["echo a > several", "echo b >> several"], "outs": ["several"]},
        "quote": {"cmd": "echo c > quote # it's quick", "outs": ["quote"]},
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    notes = _reproduced(project, executor=LocalProcesses(project, jobs) if jobs else None)

    assert {one.what for one in notes.outcomes} == {"ran"}
    assert [(project / name).read_text() for name in stages] == ["a\nb\n", "c\n"]


def test_only_the_targets_are_planned_if_only_they_are_asked_for(project):
    _reproduced(project)

    notes = _reproduced(project, "check@first", single_item=True, force=True)

    assert notes.stages == notes.begun == ["check@first"]


@pytest.mark.parametrize("jobs", [0, 2])
def test_what_depends_on_a_target_or_fits_a_pattern_is_planned_alone(project, jobs):
    """As `dvc repro` does it; of a pattern also what the stages need."""
    how = {"executor": LocalProcesses(project, jobs)} if jobs else {}
    _reproduced(project, **how)
    how = {"executor": LocalProcesses(project, jobs)} if jobs else {}

    later = _reproduced(project, "dvc.yaml:check@first", downstream=True, force=True, **how)
    fitting = _reproduced(project, "dvc.yaml:check@*", glob=True)

    assert later.stages == ["check@first", "compare"]
    assert [one.what for one in later.outcomes] == ["ran", "ran"]
    assert set(fitting.stages) == {"begin", *(f"{a}@{b}" for a in ("train", "check") for b in WAYS)}


def test_a_pattern_that_no_stage_fits_runs_nothing(project):
    """DVC takes no stage for no target, and would run all stages of all files."""
    with pytest.raises(WorkflowError, match=r"No stage fits 'dvc.yaml:nope\*'"):
        _reproduced(project, "dvc.yaml:nope*", glob=True)

    assert not (project / "begun").exists()


def test_a_file_without_stages_has_nothing_to_run(project):
    (project / "dvc.yaml").write_text("stages: {}\n")

    assert _reproduced(project).stages == []


def test_a_failure_ends_the_run_or_what_needs_the_stage(project):
    text = TWO_STEPS.replace("cp ${item.way}/model ${item.way}/score", "test -e none")
    (project / "dvc.yaml").write_text(text)
    notes = Notes()

    with pytest.raises(ReproductionError):
        reproduce(project, ["dvc.yaml"], notes, on_error="keep-going")

    assert [one.stage for one in notes.outcomes if one.what == "failed"] == [
        "check@second",
        "check@first",
    ]
    assert "compare" not in notes.begun


@pytest.mark.parametrize("ending", ["exit 1", "true"])
def test_ctrl_c_amid_a_command_of_a_shell_ends_the_run(project, ending):
    """The command gets it too and ends as it will; one that ends well is recorded before."""
    press = f"sleep 0.3; kill -INT {os.getpid()}; sleep 0.2; echo > a; {ending}"
    stages = {
        "a": {"cmd": press, "outs": ["a"]},
        "b": {"cmd": "echo > b", "outs": ["b"]},
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    notes = Notes()

    with pytest.raises(KeyboardInterrupt):
        reproduce(project, ["dvc.yaml"], notes, on_error="keep-going")

    assert (project / "dvc.lock").exists() == (ending == "true")
    assert not (project / "b").exists()
    assert notes.outcomes[0].what == ("ran" if ending == "true" else "stopped")


def test_before_a_command_runs_its_lock_must_be_writable(project, monkeypatch):
    _reproduced(project)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "dvc.lock")
    assert {one.what for one in _reproduced(project, "compare").outcomes} == {"unchanged"}
    (project / "dvc.yaml").write_text(TWO_STEPS.replace("echo begun", "echo begun; echo more"))

    with pytest.raises(ReproductionError) as raised:
        _reproduced(project)

    assert isinstance(raised.value.__cause__, PermissionError)
    assert raised.value.__cause__.filename == "dvc.lock"
    assert (project / "begun").read_text() == "begun\n"  # not removed for the new command


def test_what_could_not_be_kept_does_not_run(project, monkeypatch):
    """A read-only cache is noticed by the first command, not after hours of it."""
    monkeypatch.setattr(os, "access", lambda path, mode: ".dvc" not in Path(path).parts)

    with pytest.raises(ReproductionError) as raised:
        _reproduced(project)

    assert "cannot be written to" in str(raised.value.__cause__)
    assert not (project / "begun").exists()


def test_a_lock_that_is_a_link_stays_one(project):
    (project / "kept.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project / "dvc.lock").symlink_to("kept.lock")

    _reproduced(project)

    assert (project / "dvc.lock").is_symlink()
    assert "compare" in (project / "kept.lock").read_text()


def test_that_a_stage_is_frozen_is_said(project, caplog):
    _reproduced(project)
    (project / "dvc.yaml").write_text(TWO_STEPS.replace("  begin: {", "  begin: {frozen: true, "))

    _reproduced(project)

    assert "'begin' is frozen" in caplog.text


def test_order_keeps_each_stage_after_those_it_depends_on():
    """In the file `late` stands before what it reads; an item does not wait for another."""
    names = ["late@b", "use@a", "use@b", "make@a", "make@b", "end"]
    reads = {"use@a": ["make@a"], "use@b": ["make@b"], "late@b": ["use@b", "end"], "end": []}
    repo = SimpleNamespace(index=SimpleNamespace(stages=[]))
    stages = {name: _Stage(name, repo) for name in names}
    repo.index.stages = list(stages.values())
    graph = nx.DiGraph()
    graph.add_nodes_from(stages.values())
    graph.add_edges_from((stages[a], stages[b]) for a, many in reads.items() for b in many)

    ordered = reading_order([stages[name] for name in reversed(names)], graph)

    assert [stage.addressing for stage in ordered] == [
        "make@a",
        "use@a",
        "make@b",
        "use@b",
        "end",
        "late@b",
    ]
