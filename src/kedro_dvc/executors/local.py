"""Stages in processes of this machine, several at once; each process sees the GPUs it is given.

A process goes on to the next stage, so that libraries are imported and shared data are loaded once
a process. One whose GPUs are given to a stage that leaves it no room ends. Processes are started
by `subprocess` and get their jobs through stdin: those of the standard library's pools could not be
told apart, and each must see its GPUs before it imports anything.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import psutil
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project

from kedro_dvc.executors.jobs import TAIL, Ended, Job, LostError, last_lines, run_job
from kedro_dvc.files import WorkflowError
from kedro_dvc.in_process import InProcess
from kedro_dvc.resources import VISIBLE, Resources, cores, memory_gb, visible_gpus
from kedro_dvc.safety import end_with_parent, sharing

GRACE = 5.0  # seconds that a process has to end
# what a stage or an import prints is no result: it goes where stderr goes
PROGRAM = """\
import os
results = os.dup(1)
os.dup2(2, 1)
from kedro_dvc.executors.local import work
work(results)
"""


class Process:
    """A process that runs one job after the other.

    Args:
        project: The project's root, which is also the working directory.
        gpus: Those that it sees; None for what this process sees.
        share: The part of each that its job takes.
    """

    def __init__(self, project: Path, gpus: tuple[str, ...] | None, share: float) -> None:
        self.gpus, self.share = gpus or (), share
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=project,
            env=None if gpus is None else {**os.environ, VISIBLE: ",".join(gpus)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
        )

    def begin(self, job: Job) -> None:
        """Send it a job."""
        self._start = os.fstat(self._output.fileno()).st_size
        with suppress(BrokenPipeError):  # `end` tells of it
            _send(self._process.stdin, job)

    def end(self, job: Job) -> Ended:
        """Wait until it has done its job.

        Raises:
            LostError: If it has died.
        """
        assert self._process.stdout is not None
        try:
            ended: Ended = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            self.interrupt()
            code = self._process.returncode
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            said = self._written()
            message = f"{job.stage}: its process ended before it did ({how})"
            raise LostError(f"{message}: {said.splitlines()[-1]}" if said else message) from None
        return ended._replace(output=self._written()) if ended.errors else ended

    def _written(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        start = max(self._start, size - TAIL)
        return last_lines(os.pread(self._output.fileno(), size - start, start))

    def interrupt(self) -> None:
        """Stop its job; one that does not end soon is killed, with all that it has started."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()

    def close(self) -> None:
        """Let it end, as it has nothing to do."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.interrupt()


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
                raise LostError(f"{job.stage} was stopped")
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
            process.interrupt()

    def close(self) -> None:
        """End the idle processes."""
        for process in self._idle:
            process.close()
        self._idle.clear()


def _send(stream: IO[bytes] | None, value: Job | Ended) -> None:
    assert stream is not None
    stream.write(pickle.dumps(value))
    stream.flush()


def work(descriptor: int) -> None:
    """Run the jobs that come through stdin, one after the other, until there is no more to come.

    Args:
        descriptor: Where the results go.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    signal.signal(signal.SIGTERM, _interrupt)
    end_with_parent()
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    incoming, results = os.fdopen(os.dup(0), "rb"), os.fdopen(descriptor, "wb")
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor
        os.dup2(nothing.fileno(), 0)

    def receive() -> None:
        while True:
            try:
                jobs.put(pickle.load(incoming))
            except EOFError:  # the driver has closed it, or is no more
                os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    project = Path.cwd()
    if find_kedro_project(project):
        bootstrap_project(project)
    in_process = InProcess(project)
    with suppress(KeyboardInterrupt), sharing():
        while True:
            ended = run_job(project, jobs.get(), in_process)
            sys.stdout.flush()
            sys.stderr.flush()
            _send(results, ended)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
