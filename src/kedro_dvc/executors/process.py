"""A process that runs one stage after the other: the driver's end of it, and its own.

It is started by `subprocess` and gets its jobs through stdin: those of the standard library's pools
could not be told apart, and each must see its GPUs before it imports anything.
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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project

from kedro_dvc.executors.jobs import KEPT, Ended, Job, LostError, run_job, terminal_text
from kedro_dvc.in_process import InProcess
from kedro_dvc.resources import VISIBLE
from kedro_dvc.safety import end_with_parent, sharing

GRACE = 5.0  # seconds that a process has to end

# what a stage or an import prints is no result: it goes where stderr goes
PROGRAM = """\
import os
results = os.dup(1)
os.dup2(2, 1)
from kedro_dvc.executors.process import work
work(results)
"""


class Process:
    """A process that runs one job after the other.

    Args:
        project: The project's root, which is also the working directory.
        gpus: Those that it sees; None for what this process sees.
        share: The part of each that its job takes.
        environment: What it has beside what this process has.
    """

    def __init__(
        self,
        project: Path,
        gpus: tuple[str, ...] | None = None,
        share: float = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.gpus, self.share = gpus or (), share
        visible = {} if gpus is None else {VISIBLE: ",".join(gpus)}
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=project,
            env={**os.environ, **visible, **(environment or {})},
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
            if said:
                message += f": {said.splitlines()[-1]}"
            raise LostError(message, said) from None
        return ended._replace(output=self._written())

    def _written(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        start = max(self._start, size - KEPT)
        return terminal_text(os.pread(self._output.fileno(), size - start, start))

    def ask_to_end(self) -> None:
        """Stop its job, which may take a moment."""
        self._process.terminate()

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
            _kill_all(family)

    def close(self) -> None:
        """Let it end, as it has nothing to do."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.interrupt()


def run_here(project: Path, job: Job, gpus: tuple[str, ...] | None) -> Ended:
    """Run a job in a process of its own, of this machine, to which the job was sent.

    The project's own code is imported before that of the process that calls this.

    Args:
        project: The project's root.
        job: What to run.
        gpus: Those that the process sees; None for what this process sees.

    Raises:
        LostError: If the process dies.
    """
    paths = os.pathsep.join([str(project / "src"), os.environ.get("PYTHONPATH", "")])
    process = Process(project, gpus, environment={"PYTHONPATH": paths})
    try:
        process.begin(job)
        return process.end(job)
    finally:
        process.close()


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


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
                _kill_all(psutil.Process().children(recursive=True))
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
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would come amid the end
    raise KeyboardInterrupt
