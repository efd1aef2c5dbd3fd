"""Stages as jobs of a Slurm cluster, which submitit sends and waits for.

All nodes see the project's folder: a job starts a process there that runs the stage. A job that
dies is sent again up to twice, not to the nodes where it died. Slurm gives whole GPUs alone.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro_dvc.executors.jobs import Ended, Job
from kedro_dvc.executors.process import run_here
from kedro_dvc.executors.sent import DiedError, SentJobs, Task
from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import visible_gpus

IN_FLIGHT = 100  # jobs at once by default
FOLDER = ".dvc/tmp/kedro_dvc/slurm"  # of submitit's files, with what the jobs print


def _run(project: str, job: Job) -> Ended:
    """Run a stage on the node that Slurm has chosen; it shows the job its GPUs."""
    return run_here(Path(project), job, None)


class SlurmJobs(SentJobs):
    """Runs jobs through submitit.

    Args:
        project: The project's root, which is also the working directory.
        jobs: How many are sent at once, at most; 0 for 100.
        settings: What submitit's executor takes, such as `slurm_partition` and `timeout_min`.
        cluster: `slurm`, or `local` for processes of this machine, to try it.

    Raises:
        WorkflowError: If Slurm is not here, or the settings are unknown to submitit.
    """

    copies = False

    def __init__(
        self,
        project: Path,
        jobs: int = 0,
        settings: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise WorkflowError("there is no sbatch here: run this on a login node of Slurm")
        import submitit  # an extra

        super().__init__(jobs or IN_FLIGHT)
        self._submitit, self._project = submitit, project.resolve()
        self._is_local = cluster == "local"
        self._has_gpus = bool(visible_gpus()) if self._is_local else _slurm_has_gpus()
        self._executor = submitit.AutoExecutor(self._project / FOLDER, cluster=cluster)
        try:
            self._executor.update_parameters(**(settings or {}))
        except (NameError, AssertionError, TypeError) as error:
            raise WorkflowError(f"--slurm: {' '.join(str(error).split())}") from None
        self._settings = dict(self._executor.parameters)

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise a `WorkflowError` if a job wants a GPU and no node has one."""
        for job in jobs:
            if job.resources.gpu and not self._has_gpus:
                raise WorkflowError(
                    f"{job.stage} asks for gpu: {job.resources.gpu:g}; no node has one."
                )

    def _send(self, task: Task) -> None:
        needs = task.job.resources
        asked: dict[str, Any] = {
            "name": task.job.stage.rpartition(":")[2],
            "gpus_per_node": math.ceil(needs.gpus(self._has_gpus)),
            "cpus_per_task": math.ceil(needs.cpu) or None,
            "mem_gb": needs.memory_gb or None,
            "slurm_exclude": ",".join(task.tried) or None,
        }
        parameters = self._executor.parameters
        parameters.clear()  # of what another job has asked for
        parameters.update(self._settings)
        self._executor.update_parameters(**{key: one for key, one in asked.items() if one})
        if not asked["gpus_per_node"]:
            parameters.pop("gpus_per_node", None)
        try:
            task.sent = self._executor.submit(_run, str(self._project), task.job)
        except self._submitit.core.utils.FailedJobError as error:  # sbatch has refused it
            raise WorkflowError(f"{task.job.stage}: {' '.join(str(error).split())}") from None

    def _wait(self, task: Task) -> Ended:
        errors = self._submitit.core.utils
        try:
            ended: Ended = task.sent.result()
            return ended
        except (errors.UncompletedJobError, errors.FailedJobError) as error:
            task.tried += _node_of(task)
            raise DiedError(_told(task, error)) from None

    def _cancel(self, task: Task) -> None:
        task.sent.cancel(check=False)

    def close(self) -> None:
        """There is nothing to close."""


def _slurm_has_gpus() -> bool:
    """Return whether some node of the cluster has GPUs."""
    command = ["sinfo", "--noheader", "--format=%G"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return "gpu" in listed.stdout


def _node_of(task: Task) -> list[str]:
    node = task.sent.get_info().get("NodeList", "")
    return [node] if node and node != "None assigned" else []


def _told(task: Task, error: Exception) -> str:
    """Return the last line of what a job said that died, and where there is more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    said = next((line for line in reversed(lines) if "LostError" in line), lines[0])
    return f"{said} (see {task.sent.paths.stderr})"
