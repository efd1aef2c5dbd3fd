"""Stages that outlive DVC, and locks that outlive their holders: with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from kedro_dvc.doctor import locks, orphans
from tests.kedro_dvc.doctor.conftest import Project

STAGE = "studies/mine/dvc.yaml:make"
SLEEP = "import time; time.sleep(60)"
START = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"


def test_a_stage_without_dvc_is_an_error_that_names_it_and_its_processes(project):
    with _started(project, SLEEP, STAGE) as process:
        [finding] = project.found(orphans)

    assert finding == (
        "ERROR",
        f"{STAGE} still runs without DVC and may write its outputs at any time: "
        f"`kill {process.pid}`",
    )
    assert project.found(orphans) == [("ok", "no stage runs without DVC")]


@pytest.mark.parametrize("name", ["dvc", "kedro"])
def test_a_stage_that_dvc_has_started_is_none_until_dvc_dies(project, tmp_path, name):
    script = tmp_path / name
    script.write_text(
        "import os, subprocess, sys\n"
        f"stage = dict(os.environ, DVC_STAGE={STAGE!r}, DVC_ROOT={str(project.root)!r})\n"
        f"subprocess.run([sys.executable, '-c', {SLEEP!r}], env=stage)\n"
    )
    with subprocess.Popen([sys.executable, script]) as runner:
        child = _child(runner.pid)
        try:
            before = project.bad(orphans)
            runner.kill()
            runner.wait()
            after = project.bad(orphans)
        finally:
            child.kill()

    assert before == []
    assert [f"`kill {child.pid}`" in text for _, text in after] == [True]


def test_a_stage_is_not_its_own_runner_though_it_is_a_kedro_run(project, tmp_path):
    """What the stage has started is as lost as the stage."""
    (tmp_path / "kedro").write_text(START)
    with _started(project, tmp_path / "kedro", STAGE) as process:
        child = _child(process.pid)
        [finding] = project.found(orphans)
        child.kill()

    pids = sorted([process.pid, child.pid])
    assert finding.text.endswith(f"`kill {pids[0]} {pids[1]}`")


def test_who_has_locked_files_may_start_stages_under_any_name(project):
    _lock(project, os.getpid())
    with _started(project, SLEEP, STAGE):
        assert project.bad(orphans) == []


def test_a_stage_of_another_project_is_none_of_ours(project, tmp_path):
    with _started(project._replace(root=tmp_path), SLEEP, STAGE):
        assert project.bad(orphans) == []


def test_locks_of_the_dead_and_of_the_living_are_told_apart(project):
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    _lock(project, ended.pid, os.getpid())

    assert {text for _, text in project.found(locks)} == {
        f"process {ended.pid} (dvc repro) died with files locked, DVC unlocks them",
        f"process {os.getpid()} (dvc repro) is at work: look again when it has ended",
    }


def test_a_table_of_locks_that_dvc_cannot_read_is_an_error(project):
    (project.root / ".dvc/tmp/rwlock").write_text("")

    assert project.found(locks) == [
        ("ERROR", ".dvc/tmp/rwlock is broken, and DVC cannot run: delete it")
    ]
    assert project.bad(orphans) == []


def test_after_a_run_nothing_is_locked(project):
    assert project.found(locks) == [("ok", "no process has files of stages locked")]


@contextmanager
def _started(project: Project, what: str | Path, stage: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python as a stage of the project; DVC is not among its parents."""
    environment = {**os.environ, "DVC_STAGE": stage, "DVC_ROOT": str(project.root)}
    options = [str(what)] if isinstance(what, Path) else ["-c", what]
    with subprocess.Popen([sys.executable, *options], env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _child(pid: int) -> psutil.Process:
    """Return the process that another one starts, once it has an environment of its own."""
    while not (children := psutil.Process(pid).children()) or SLEEP not in children[0].cmdline():
        time.sleep(0.01)
    return children[0]


def _lock(project: Project, *pids: int) -> None:
    """Let processes seem to use files of stages."""
    used = [{"pid": pid, "cmd": "dvc repro"} for pid in pids]
    table = {"write": {"/out": used[0]}, "read": {"/dep": used[1:]}}
    (project.root / ".dvc/tmp/rwlock").write_text(json.dumps(table))
