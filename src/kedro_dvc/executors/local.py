"""Stages in processes of this machine, several at once; each process sees the GPUs it is given.

A process goes on to the next stage, so that libraries are imported and shared data are loaded once
a process. One whose GPUs are given to a stage that leaves it no room ends.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kedro_dvc.executors.jobs import Ended, Job, LostError, StoppedError
from kedro_dvc.executors.process import Process
from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import Resources, cores, memory_gb, visible_gpus


class _Given(NamedTuple):
    """What is set aside for a job."""

    resources: Resources
    gpus: tuple[str, ...]
    share: float  # of each of these GPUs


class LocalProcesses:
    """Runs jobs in processes of this machine.

    Args:
        project: The project's root, which is also the working directory.
        jobs: How many at once, at most.
        reuse: Let a process go on to another stage.
    """

    copies = False

    def __init__(self, project: Path, jobs: int, reuse: bool = True) -> None:
        self._project, self._jobs, self._reuse = project, jobs, reuse
        self._gpus, self._cores, self._memory = visible_gpus(), cores(), memory_gb()
        self._given: dict[str, _Given] = {}  # by stage
        self._idle: list[Process] = []
        self._busy: dict[str, Process] = {}
        self._stopped = False
        self._guard = threading.Lock()

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise a `WorkflowError` if a job asks for more than this machine has."""
        here = {"gpu": len(self._gpus), "cpu": self._cores, "memory_gb": self._memory}
        for job in jobs:
            for name, there in here.items():
                asked = getattr(job.resources, name) or 0
                if asked > there:
                    raise WorkflowError(
                        f"{job.stage} asks for {name}: {asked:g}; this machine has {there:g}."
                    )

    def admit(self, waiting: Sequence[Job]) -> list[Job]:
        """Return those that may begin now; what an earlier one waits for no later one gets."""
        admitted, gpus_wanted, memory_wanted, cores_wanted = [], False, False, False
        with self._guard:
            for job in waiting:
                if len(self._given) >= self._jobs:
                    break
                needs, given = job.resources, self._given.values()
                gpus = self._free_gpus(needs)
                no_gpus = gpus is None or (gpus and gpus_wanted)
                no_memory = needs.memory_gb and (
                    memory_wanted
                    or needs.memory_gb + sum(one.resources.memory_gb for one in given)
                    > self._memory
                )
                no_cores = needs.cpu and (
                    cores_wanted
                    or needs.cpu + sum(one.resources.cpu for one in given) > self._cores
                )
                if no_gpus or no_memory or no_cores:
                    gpus_wanted = gpus_wanted or bool(needs.gpus(bool(self._gpus)))
                    memory_wanted = memory_wanted or bool(needs.memory_gb)
                    cores_wanted = cores_wanted or bool(needs.cpu)
                    continue
                assert gpus is not None
                share = min(needs.gpus(bool(self._gpus)), 1)
                self._given[job.stage] = _Given(needs, gpus, share)
                admitted.append(job)
        return admitted

    def _free_gpus(self, needs: Resources) -> tuple[str, ...] | None:
        """Return the GPUs that a job would get now, the least used first; None if it must wait."""
        wanted = needs.gpus(bool(self._gpus))
        used = {
            gpu: sum(one.share for one in self._given.values() if gpu in one.gpus)
            for gpu in self._gpus
        }
        number = max(int(wanted), 1) if wanted else 0
        fitting = [gpu for gpu in self._gpus if used[gpu] + min(wanted, 1) <= 1 + 1e-9]
        chosen = sorted(fitting, key=lambda gpu: (used[gpu], self._gpus.index(gpu)))[:number]
        return tuple(chosen) if len(chosen) == number else None

    def submit(self, job: Job) -> tuple[Job, Process]:
        """Begin a job in an idle process that sees its GPUs, or in a new one."""
        with self._guard:
            if self._stopped:
                raise StoppedError(f"{job.stage} was stopped")
            given = self._given[job.stage]
            alike = [one for one in self._idle if one.gpus == given.gpus]
            process = alike[-1] if alike else None
            if process is not None:
                self._idle.remove(process)
                process.share = given.share
            for other in self._in_the_way(given):
                self._idle.remove(other)
                other.close()
            if process is None:
                process = Process(self._project, given.gpus if self._gpus else None, given.share)
            self._busy[job.stage] = process
        process.begin(job)
        return job, process

    def _in_the_way(self, given: _Given) -> list[Process]:
        """Return the idle processes that must end: they hold memory of the job's GPUs, or of all.

        An idle process keeps what it has loaded, so the shares of those that are there count.
        """
        ended = []
        for gpu in given.gpus:
            held = given.share + sum(one.share for one in self._busy.values() if gpu in one.gpus)
            for one in reversed(self._idle):
                if gpu in one.gpus and one not in ended:
                    held += one.share
                    if held > 1 + 1e-9:
                        ended.append(one)
        left = [one for one in self._idle if one not in ended]
        surplus = len(self._busy) + len(left) + 1 - self._jobs
        return ended + left[: max(surplus, 0)]

    def result(self, handle: tuple[Job, Process]) -> Ended:
        """Wait until a job has ended; raise `LostError` if its process died or was stopped."""
        job, process = handle
        ended = None
        try:
            ended = process.end(job)
            if ended.errors and self._stopped:
                raise LostError(job.stage, ended.output)
        except LostError as error:
            if self._stopped:
                raise StoppedError(f"{job.stage} was stopped", error.output) from None
            raise
        finally:
            with self._guard:
                del self._busy[job.stage]
                self._given.pop(job.stage, None)
                keep = ended is not None and self._reuse and not self._stopped
                if keep:
                    self._idle.append(process)
            if not keep:
                process.close()
        return ended

    def release(self, job: Job) -> None:
        """Take back what was set aside for a job that was not run."""
        with self._guard:
            self._given.pop(job.stage, None)

    def stop(self) -> None:
        """End all jobs at once."""
        with self._guard:
            self._stopped = True
            busy = list(self._busy.values())
        for process in busy:
            process.ask_to_end()
        for process in busy:
            process.interrupt()

    def close(self) -> None:
        """End the idle processes."""
        for process in self._idle:
            process.close()
        self._idle.clear()
