"""Stages through submitit, whose jobs are processes of this machine here; no Slurm is needed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from dvc.exceptions import ReproductionError

from kedro_dvc.executors.jobs import Job
from kedro_dvc.executors.sent import Task
from kedro_dvc.executors.slurm import SlurmJobs
from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import VISIBLE, Resources
from kedro_dvc.run import reproduce
from tests.kedro_dvc.test_parallel import RACE, _bytes, _stages
from tests.kedro_dvc.test_run import Notes
from tests.waiting import LONG, is_running, until

pytest.importorskip("submitit", reason="submitit is not installed: pip install -e '.[slurm]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs ask for none, whatever this machine has."""
    monkeypatch.setenv(VISIBLE, "")


def _run(project: Path, notes: Notes | None = None, **options: Any) -> Notes:
    notes, executor = notes or Notes(), SlurmJobs(project, cluster="local")
    reproduce(project, ["dvc.yaml"], notes, executor=executor, **options)
    return notes


def test_the_lock_and_the_files_are_those_of_one_after_the_other(project):
    (project / "dvc.yaml").write_text(RACE)
    reproduce(project, ["dvc.yaml"], Notes())
    one_by_one = _bytes(project)
    for path in ("a0", "b1", "c2", "all", "dvc.lock"):
        (project / path).unlink()
    shutil.rmtree(project / ".dvc/cache")

    notes = _run(project)

    assert {one.what for one in notes.outcomes} == {"ran"}
    assert _bytes(project) == one_by_one


def test_a_job_that_dies_each_time_is_named_and_the_others_go_on(project):
    _stages(project, bad="echo x >> tried; kill -9 $PPID", good="echo > good")
    notes = Notes()

    with pytest.raises(ReproductionError, match="bad"):
        _run(project, notes, on_error="keep-going")

    assert {one.stage: one.what for one in notes.outcomes} == {"bad": "failed", "good": "ran"}
    assert (project / "tried").read_text().count("x") == 3


def test_ctrl_c_cancels_the_jobs(project):
    _stages(project, a=f"echo $$ > pid; touch begun; sleep {LONG}; echo > a")

    def press() -> None:
        until((project / "begun").exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        _run(project)

    assert (project / ".dvc/tmp/rwlock").read_text() == "{}"
    pid = int((project / "pid").read_text())
    until(lambda: not is_running(pid))


SBATCH = """#!/bin/sh
cat "$1" > sent."$(ls sent.* 2>/dev/null | wc -l)"
echo Submitted batch job 1
"""


def test_what_one_job_asks_for_no_later_one_does(project, monkeypatch):
    """A Slurm of three scripts, whose `sbatch` keeps what it is given; the job is not run."""
    for name, text in {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "sinfo": "#!/bin/sh\n"}.items():
        (project / name).write_text(text)
        (project / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{project}:{os.environ['PATH']}")
    jobs = SlurmJobs(project, settings={"timeout_min": 7})
    large = Task(Job("large", ["true"], ".", Resources(gpu=0, cpu=8, memory_gb=40)))
    large.tried = ["node1"]

    for task in (large, Task(Job("small", ["true"], ".", Resources(gpu=0)))):
        jobs._send(task)

    first, second = (
        {line for line in (project / f"sent.{n}").read_text().splitlines() if "SBATCH" in line}
        for n in (0, 1)
    )
    own = {"#SBATCH --mem=40GB", "#SBATCH --cpus-per-task=8", "#SBATCH --exclude=node1"}
    assert own <= first
    assert not any(
        line.partition("=")[0] in {one.partition("=")[0] for one in own} for line in second
    )
    assert "#SBATCH --time=7" in first & second


def test_a_gpu_that_no_node_has_is_refused_at_the_start(project):
    job = Job("x", ["true"], ".", Resources(gpu=1))

    with pytest.raises(WorkflowError, match="x asks for gpu: 1; no node has one"):
        SlurmJobs(project, cluster="local").check([job])


def test_settings_that_submitit_does_not_know_are_refused(project):
    with pytest.raises(WorkflowError, match="slurm_partitions"):
        SlurmJobs(project, settings={"slurm_partitions": "gpu"}, cluster="local")


def test_without_slurm_it_is_said_at_once(project, monkeypatch):
    monkeypatch.setenv("PATH", str(project))

    with pytest.raises(WorkflowError, match="there is no sbatch here"):
        SlurmJobs(project)
