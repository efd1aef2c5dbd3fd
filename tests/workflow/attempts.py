"""Run the study twice, and kill the first attempt."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.workflow.conftest import Project


class Attempts(NamedTuple):
    """Two attempts at the study; DVC was killed in the first, amid the last of its stages.

    Attributes:
        first: The stages that ran in the first attempt.
        processes: What DVC had started and was running when it was killed.
        left: Those that went on running.
        second: The stages that ran in the second attempt.
    """

    first: list[str]
    processes: list[int]
    left: list[int]
    second: list[str]


def two_attempts(project: Project, study: str) -> Attempts:
    """Kill DVC amid the unlearning of a method, and let it run again."""
    output, started = _killed(project, study, "unlearn@seuf_gdiff", "Loading data from questions")
    deadline = time.monotonic() + 10
    while (left := [pid for pid in started if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return Attempts(stages_in(output), started, left, project.repro())


def stages_in(output: str) -> list[str]:
    """Return the stages that DVC says it runs."""
    lines = output.splitlines()
    return [line.split(":")[1].strip("'") for line in lines if line.startswith("Running stage")]


def _killed(project: Project, study: str, stage: str, sign: str) -> tuple[str, list[int]]:
    """Kill `dvc repro` when a stage prints a sign; return what was printed, and the processes."""
    log = project.root / "killed.log"
    with log.open("w") as out:
        command = ("dvc", "repro", study)
        dvc = subprocess.Popen(
            command, cwd=project.root, env=project.environment, stdout=out, stderr=out
        )
        while sign not in log.read_text().partition(f"{stage}':")[2]:
            assert dvc.poll() is None, log.read_text()
            time.sleep(0.05)
        started = _descendants(dvc.pid)
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
    return log.read_text(), started


def _descendants(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    below = [pid for child in listed for pid in _descendants(int(child))]
    return [int(child) for child in listed] + below


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
