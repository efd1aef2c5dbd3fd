"""`kedro dvc run` does what `dvc repro` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.waiting import sleeping
from tests.workflow.conftest import ENVIRONMENT, LOCK, RUN, Project, World

COUNT_PROCESSES = """\
import pathlib
words = pathlib.Path("/proc/self/cmdline").read_text().split("\\0")
if any(word.endswith("/kedro") for word in words):
    with pathlib.Path(__file__).with_name("processes").open("a") as file:
        file.write(" ".join(words) + "\\n")
"""
SELECT = (*RUN, "select_experts")

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def project(world: World, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project in which the study has run, for all tests of this file."""
    return world.project.copy(tmp_path_factory.mktemp("run") / "project")


def test_a_second_run_runs_nothing_and_a_third_does_not_even_look(world, tmp_path):
    """The second is the first in this place, where the files have other inodes."""
    project = world.project.copy(tmp_path / "project")

    *lines, last = project.done(*RUN).splitlines()
    assert last.startswith(f"{len(lines)} unchanged, in ")

    assert project.done(*RUN) == f"{len(lines)} unchanged\n"


@pytest.mark.slow
def test_an_earlier_state_is_restored_from_the_run_cache(project):
    with _top(project, 2):
        assert "select_experts  ran" in _squeezed(project.done(*SELECT))

    assert "select_experts  restored" in _squeezed(project.done(*SELECT))


@pytest.mark.slow
def test_a_stage_can_have_a_process_of_its_own(project, tmp_path, monkeypatch):
    """Beside this one, that is: Python imports `sitecustomize` when a process begins."""
    (tmp_path / "sitecustomize.py").write_text(COUNT_PROCESSES)
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", _first(tmp_path, ENVIRONMENT.get("PYTHONPATH")))
    with _top(project, 3):
        ended = project.run(*SELECT, "--isolate")
        processes = (tmp_path / "processes").read_text().splitlines()

        assert "select_experts  ran" in _squeezed(ended.stdout)
        assert ended.stderr.count("Pipeline execution completed") == 1
        assert len(processes) == 3
        assert ["--isolate" in words for words in processes] == [True, False, False]
        assert ["sync" in words for words in processes] == [False, True, False]
        assert "select_experts" not in project.stale()


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("-j", "2")])
def test_an_error_is_one_line_and_the_lock_stays(project, how):
    before = _lock(project)["select_experts"]
    with _top(project, 100):
        ended = project.run(*SELECT, *how)

    assert ended.returncode == 1
    assert ended.stderr.endswith("error: expert_selection.top is 100; the model has 8 experts.\n")
    assert _lock(project)["select_experts"] == before


@pytest.mark.slow
def test_ctrl_c_stops_the_stage_and_keeps_those_before_it(project):
    """DVC's lock stays readable, and nothing that has ended is run again.

    Amid a stage or between two: that is a matter of luck.
    """
    with _started(project, *RUN, "--force") as running:
        next(line for line in running.stdout if line.startswith("select_experts"))
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 1
        rest = running.stdout.read()

    assert " ran, in " not in rest
    assert "select_experts  unchanged" in _squeezed(project.done(*RUN))
    assert project.stale() == []


@pytest.mark.slow
def test_stages_at_once_write_what_one_after_the_other_does(world, tmp_path):
    """All but the seconds that a method took, and the table and report that tell them."""
    other = world.begun.copy(tmp_path / "project")

    printed = other.done(*RUN, "-j", "2")

    locks = _lock(world.project), _lock(other)
    assert printed.count("  ran  ") == len(locks[1])
    assert list(locks[0]) == list(locks[1])
    for name in list(locks[0])[: list(locks[0]).index("compare_methods")]:
        one, two = (
            {out["path"]: out["md5"] for out in lock[name]["outs"] if "timing" not in out["path"]}
            for lock in locks
        )
        assert one == two
    assert _records(world.project).keys() == _records(other).keys()


@pytest.mark.slow
def test_who_is_in_the_way_is_named_or_waited_for(project):
    with _top(project, 4), sleeping() as other:
        who = f"(PID {other.pid}): dvc repro elsewhere"
        _block(project, other.pid)
        refused = project.run(*SELECT)
        with _started(project, *SELECT, "--wait") as waiting:
            first = next(line for line in waiting.stdout if line.startswith("waiting: "))
            other.kill()
            other.wait()
            rest = waiting.stdout.read()

    assert refused.returncode == 1
    assert who in refused.stderr
    assert who in first
    assert "select_experts  ran" in _squeezed(rest)


@contextmanager
def _top(project: Project, number: int) -> Iterator[None]:
    """Let the study select another number of experts for a while."""
    path = project.root / "conf/base/parameters_expert_selection.yml"
    before = path.read_text()
    path.write_text(before.replace("top: 1", f"top: {number}"))
    try:
        yield
    finally:
        path.write_text(before)


def _started(project: Project, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=project.root, env=project.environment, stdout=subprocess.PIPE, text=True
    )


def _block(project: Project, pid: int) -> None:
    """Let another process seem to write what `select_experts` writes."""
    path = project.root / "studies/smoke/data/05_model_input/selected_experts.json"
    lock = {"write": {str(path): {"pid": pid, "cmd": "dvc repro elsewhere"}}, "read": {}}
    (project.root / ".dvc/tmp/rwlock").write_text(json.dumps(lock))


def _records(project: Project) -> dict[str, Any]:
    folder = project.root / "evidence/smoke/runs"
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


def _lock(project: Project) -> dict[str, Any]:
    return yaml.safe_load((project.root / LOCK).read_text())["stages"]


def _first(path: Path, others: str | None) -> str:
    return os.pathsep.join([str(path), *([others] if others else [])])


def _squeezed(text: str) -> str:
    return "\n".join("  ".join(line.split()) for line in text.splitlines())
