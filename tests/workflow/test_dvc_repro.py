"""`dvc repro` of the smoke study, whose first attempt is killed, and what it leaves."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.waiting import is_running, until
from tests.workflow.conftest import LOCK, STUDY, Project, World, stages_in
from tests.workflow.test_smoke_study import ALL

DELTA = "studies/smoke/data/06_models/seuf_gdiff/delta.safetensors"
TIMED = ("timing.json", "comparison.csv", "comparison.md", "metrics.json", "report.html")

KILLED = "unlearn@seuf_gdiff"
HELD = "held before its delta is there"
RELEASE = "released"  # a file in the project: DVC is dead
GRACE = 10  # seconds in which a stage must have noticed it
HOLD = f"""
import os, pathlib, time

def replace(path, target, replace=pathlib.Path.replace):
    if str(target).endswith({DELTA!r}):
        print({HELD!r}, flush=True)
        while not pathlib.Path({RELEASE!r}).exists():
            time.sleep(0.1)
        time.sleep({GRACE})
    return replace(path, target)

if os.environ.get("DVC_STAGE", "").endswith({KILLED!r}):
    pathlib.Path.replace = replace
"""  # Python imports it at its start; a stage of under a second is hard to stop amid it else

STAYING = """#!/bin/sh
/bin/sh "$@"
exit $?
"""  # a shell that does not become the command that it runs, as that of an older Debian

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Attempts(NamedTuple):
    """Two attempts at the study; DVC was killed in the first, amid the last of its stages.

    Attributes:
        project: Where they were made.
        first: The stages that ran in the first attempt.
        processes: What DVC had started and was running when it was killed.
        is_written: Whether the stage that DVC was amid came to its end.
        second: The stages that ran in the second attempt.
    """

    project: Project
    first: list[str]
    processes: list[int]
    is_written: bool
    second: list[str]


@pytest.fixture(scope="module", params=["its shell becomes it", "its shell stays"])
def attempts(
    world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Attempts:
    """DVC is killed amid the unlearning of a method, and runs again."""
    folder = tmp_path_factory.mktemp("attempts")
    (folder / "sitecustomize.py").write_text(HOLD)
    shell = folder / "sh"
    shell.write_text(
        STAYING if request.param == "its shell stays" else '#!/bin/sh\nexec /bin/sh "$@"\n'
    )
    shell.chmod(0o755)
    project = world.begun.copy(folder / "project")
    environment = {**project.environment, "PYTHONPATH": str(folder), "SHELL": str(shell)}
    output, started = _killed(project, environment)
    until(lambda: not any(map(is_running, started)))
    is_written = (project.root / DELTA).exists()
    return Attempts(project, stages_in(output), started, is_written, project.repro())


def test_nothing_goes_on_running_after_dvc_was_killed(attempts):
    """Else an orphan would write its outputs into the next attempt."""
    assert attempts.processes
    assert not attempts.is_written


def test_a_study_goes_on_where_it_was_interrupted(attempts):
    """What had come to its end does not run again."""
    *ended, _ = attempts.first

    assert set(attempts.second) == set(ALL) - set(ended)
    assert {"make_base_model", "select_experts"} <= set(ended)


def test_its_lock_is_that_of_kedro_dvc_run_to_the_byte(attempts, world):
    """But for what tells of seconds."""
    stages, here = _stages(attempts.project), _stages(world.project)

    assert stages.keys() == here.keys()
    for stage in stages:
        assert _timeless(stages[stage]) == _timeless(here[stage]), stage


def test_an_experiment_runs_what_its_setting_concerns(world, tmp_path):
    project = world.project.copy(tmp_path / "project")
    weight = "conf/smoke/parameters.yml:methods.seuf_gdiff.anchor_weight=0.5"

    ran = project.done("dvc", "exp", "run", "--set-param", weight, f"{STUDY}:compare_methods")

    expected = ["in_sync", "unlearn@seuf_gdiff", "evaluate@seuf_gdiff", "compare_methods"]
    assert stages_in(ran) == expected


def _killed(project: Project, environment: dict[str, str]) -> tuple[str, list[int]]:
    """Kill `dvc repro` when a stage is held; return what was printed, and the processes."""
    log = project.root / "killed.log"
    with log.open("w") as out:
        command = ("dvc", "repro", STUDY)
        dvc = subprocess.Popen(command, cwd=project.root, env=environment, stdout=out, stderr=out)

        def is_there() -> bool:
            assert dvc.poll() is None, log.read_text()
            return HELD in log.read_text()

        until(is_there)
        started = _descendants(dvc.pid)
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
        (project.root / RELEASE).touch()
    return log.read_text(), started


def _descendants(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    below = [pid for child in listed for pid in _descendants(int(child))]
    return [int(child) for child in listed] + below


def _stages(project: Project) -> dict[str, Any]:
    return yaml.safe_load((project.root / LOCK).read_text())["stages"]


def _timeless(stage: dict[str, Any]) -> dict[str, Any]:
    """Return the stage without what depends on its seconds."""
    kept = {
        part: [one for one in stage.get(part, []) if Path(one["path"]).name not in TIMED]
        for part in ("deps", "outs")
    }
    return {**stage, **kept}
