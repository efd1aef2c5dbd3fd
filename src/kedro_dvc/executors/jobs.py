"""A stage's command as a job that another process runs, and what an `Executor` does with it.

The driver alone uses DVC: it decides that a stage must run, sends its command as a `Job`, and
records what was written when the job has ended. `run_job` is what happens at the other end.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import subprocess
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kedro_dvc.files import WorkflowError
from kedro_dvc.resources import MemoryPeak, Resources

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
KEPT = 1 << 20  # bytes of what a stage writes to the terminal, its last


class Job(NamedTuple):
    """A stage to be run.

    Attributes:
        stage: Its address, as `dvc repro` takes it.
        commands: What DVC would run one after the other in a shell.
        folder: Where, from the project's root.
        resources: What it needs.
        outputs: What it writes, each with the DVC remote that it names; paths are from the root.
        inputs: The MD5 of each file that it reads, when it begins, for an executor that `copies`.
    """

    stage: str
    commands: list[str]
    folder: str
    resources: Resources
    outputs: Mapping[str, str | None] = {}
    inputs: Mapping[str, str] = {}


class Ended(NamedTuple):
    """What a job that has ended tells.

    Attributes:
        resident: The most that was resident while it ran, in bytes.
        on_device: The most on a CUDA device, in bytes; None without one.
        errors: Why it failed, as `portable` made it; empty if it did not.
        output: What it wrote to the terminal, see `terminal_text`; its last megabyte at most.
        warnings: What was logged as such and what Python warned of, each once.
    """

    resident: int
    on_device: int | None
    errors: list[bytes]
    output: str = ""
    warnings: Sequence[str] = ()


class LostError(WorkflowError):
    """The process of a stage has ended before the stage did.

    Attributes:
        output: As that of `Ended`.
    """

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class StoppedError(LostError):
    """It was asked to end, as by Ctrl-C."""


class RemoteTraceback(Exception):  # noqa: N818 - it is the cause of an error, and raised by none
    """Where in its own process a stage failed, as text."""

    def __str__(self) -> str:
        """Return the text on lines of its own."""
        return f"\n{self.args[0]}"


class Executor(Protocol):
    """Runs jobs: processes of this machine, tasks of a cluster, jobs of a queue.

    `submit` and `result` are called from a thread of the stage's own, the others from the main one.

    Attributes:
        copies: Whether it wants to know what a stage reads.
    """

    copies: bool

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise a `WorkflowError` of one line if a job asks for what there is not."""

    def admit(self, waiting: Sequence[Job]) -> list[Job]:
        """Return those that may begin now, in this order, and set aside what they need."""

    def submit(self, job: Job) -> Any:
        """Begin a job that was admitted; return what `result` takes."""

    def result(self, handle: Any) -> Ended:
        """Wait until a job has ended.

        Raises:
            LostError: If its process died, or was stopped.
        """

    def release(self, job: Job) -> None:
        """Take back what was set aside, if that has not been done yet."""

    def stop(self) -> None:
        """End all jobs at once; each `result` raises."""

    def close(self) -> None:
        """End what is left of the processes."""


def run_job(project: Path, job: Job, in_process: Callable[[str], bool]) -> Ended:
    """Run a job in this process, or in one of its own if it is no node of the project.

    Args:
        project: The project's root, which is also the working directory.
        job: What to run.
        in_process: Runs a command here, or returns False: `InProcess`.
    """
    errors: list[bytes] = []
    with MemoryPeak() as peak, _warnings() as warned:
        try:
            for command in job.commands:
                if len(job.commands) > 1 or not in_process(command):
                    _run_in_shell(project, job, command)
        except BaseException as error:
            errors = portable(error)
    return Ended(peak.resident, peak.on_device, errors, warnings=list(warned))


@contextmanager
def _warnings() -> Iterator[dict[str, None]]:
    """Yield what fills with the warnings inside the context, in their order."""
    warned: dict[str, None] = {}
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.setdefault(record.getMessage().strip())  # type: ignore
    logging.captureWarnings(True)
    logging.getLogger().addHandler(handler)
    try:
        yield warned
    finally:
        logging.getLogger().removeHandler(handler)
        logging.captureWarnings(False)


def _run_in_shell(project: Path, job: Job, command: str) -> None:
    """Run a command as DVC does."""
    from dvc.env import DVC_ROOT, DVC_STAGE
    from dvc.stage.exceptions import StageCmdFailedError
    from dvc.stage.run import _make_cmd, get_executable

    environment = {**os.environ, DVC_ROOT: str(project), DVC_STAGE: job.stage}
    shell = os.name == "nt"
    words = _make_cmd(get_executable(), command)
    ended = subprocess.run(
        words, cwd=project / job.folder, env=environment, shell=shell, check=False
    )
    if ended.returncode:
        # its own type says what it says twice once it is pickled
        raise WorkflowError(str(StageCmdFailedError(command, ended.returncode)))


def portable(error: BaseException) -> list[bytes]:
    """Return an error and those that caused it, each pickled, and the traceback as the last.

    One that cannot be pickled is sent as a `RuntimeError` that says what it was.
    """
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and all(one is not other for other in chain):
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    text = "".join(traceback.format_exception(error))
    return [*map(_pickled, chain), pickle.dumps(RemoteTraceback(text))]


def _pickled(error: BaseException) -> bytes:
    if isinstance(error, Exception):
        try:
            data = pickle.dumps(error)
            pickle.loads(data)
            return data
        except Exception:  # of any kind: the error's own code is run
            pass
    return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def error_of(ended: Ended) -> BaseException | None:
    """Return why a job failed, with its causes; None if it did not."""
    chain = [pickle.loads(data) for data in ended.errors]
    for error, cause in pairwise(chain):
        error.__cause__ = cause
    return chain[0] if chain else None


def terminal_text(written: bytes) -> str:
    """Return what a terminal would show in the end: of a bar its last state; no empty lines."""
    text = CONTROL.sub("", written.decode(errors="replace"))
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
