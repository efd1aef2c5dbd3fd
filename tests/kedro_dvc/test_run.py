"""DVC's reproduce in one process: what runs where, in which order, and what is measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dvc.dvcfile
import networkx as nx
import pytest
from dvc.exceptions import ReproductionError
from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml

from kedro_dvc.run import (
    LockOrder,
    Outcome,
    changed_lock,
    quick_locks,
    reading_order,
    reproduce,
)

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "studies/sandbox_seeds/dvc.lock"
NEW = {
    "cmd": "kedro run --nodes 'a b'",
    "deps": [{"path": "ä", "hash": "md5", "md5": "0" * 32, "size": 1}],
    "params": {"conf/a.yml": {"rate": 1e-05, "no": False, "text": "010", "none": None, "deep": {}}},
}
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
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of DVC without Kedro, which is also the working directory."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    Repo.init(no_scm=True).close()
    (root / "dvc.yaml").write_text(TWO_STEPS)
    return root


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


def test_only_the_targets_are_planned_if_only_they_are_asked_for(project):
    _reproduced(project)

    notes = _reproduced(project, "check@first", single_item=True, force=True)

    assert notes.stages == notes.begun == ["check@first"]


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


def test_a_change_of_a_recorded_lock_gives_the_same_bytes(tmp_path):
    written = []
    for way in (modify_yaml, changed_lock):
        copy = shutil.copy(RECORDED, tmp_path / "dvc.lock")
        with way(str(copy)) as content:
            content["stages"].update(new=NEW)
        with way(str(copy)) as content:  # what one has written the other reads
            content["stages"]["new"]["cmd"] += " --again"
        written.append(Path(copy).read_bytes())

    assert written[0] == written[1]
    assert b"--again" in written[1]


def test_a_lock_that_is_not_there_yet_is_made(tmp_path):
    with changed_lock(str(tmp_path / "dvc.lock")) as content:
        content["schema"] = "2.0"

    assert (tmp_path / "dvc.lock").read_text() == "schema: '2.0'\n"


def test_only_locks_and_only_inside_the_context(tmp_path):
    """A dvc.yaml keeps its comments."""
    original, path = dvc.dvcfile.modify_yaml, tmp_path / "dvc.yaml"
    path.write_text("stages: # mine\n  a: 1\n")

    with quick_locks(LockOrder()), dvc.dvcfile.modify_yaml(str(path)) as content:
        assert dvc.dvcfile.modify_yaml is not original
        content["stages"]["b"] = 2

    assert path.read_text() == "stages: # mine\n  a: 1\n  b: 2\n"
    assert dvc.dvcfile.modify_yaml is original
