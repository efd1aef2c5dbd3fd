"""Checks of processes: stages that outlive DVC, and locks that outlive their holders."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from seuf.kedro_dvc.doctor.findings import Finding, error, ok, warning
from seuf.kedro_dvc.doctor.patient import Patient

RUNNERS = {"dvc", "kedro"}  # the commands that start stages


class Holder(NamedTuple):
    """A process that has told DVC that it uses files of stages."""

    pid: int
    command: str


def locks(patient: Patient) -> Iterator[Finding]:
    """Look for processes that use files of stages, or have died meanwhile."""
    try:
        found = holders(patient.locks)
    except ValueError:
        yield error(f"{patient.name(patient.locks)} is broken, and DVC cannot run: delete it")
        return
    for pid, command in sorted(found):
        if psutil.pid_exists(pid):
            yield warning(f"process {pid} ({command}) is at work: look again when it has ended")
        else:
            yield warning(f"process {pid} ({command}) died with files locked, DVC unlocks them")
    if not found:
        yield ok("no process has files of stages locked")


def orphans(patient: Patient) -> Iterator[Finding]:
    """Look for stages that still run though DVC, which started them, does not."""
    runners, lost = _holding(patient.locks), defaultdict(list)
    for process in psutil.process_iter():
        stage = _stage(process, patient.root)
        if stage and not any(_starts_stages(one, patient.root, runners) for one in _above(process)):
            lost[stage].append(process.pid)
    for stage, pids in lost.items():
        yield error(
            f"{stage} still runs without DVC and may write its outputs at any time: "
            f"`kill {' '.join(map(str, pids))}`"
        )
    if not lost:
        yield ok("no stage runs without DVC")


def holders(table: Path) -> set[Holder]:
    """Return the processes in DVC's table of locks.

    Raises:
        ValueError: If the file holds no JSON.
    """
    try:
        locked = json.loads(table.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return set()
    readers = [one for path in locked.get("read", {}).values() for one in path]
    writers = locked.get("write", {}).values()
    return {Holder(one["pid"], one["cmd"]) for one in (*readers, *writers)}


def _holding(table: Path) -> set[int]:
    try:
        return {one.pid for one in holders(table)}
    except ValueError:
        return set()


def _stage(process: psutil.Process, root: Path) -> str | None:
    """Return the stage of this project that a process belongs to."""
    values = _asked(process.environ, {})
    ours = os.path.realpath(values.get("DVC_ROOT", "/")) == os.path.realpath(root)
    return values.get("DVC_STAGE") if ours else None


def _starts_stages(process: psutil.Process, root: Path, runners: Collection[int]) -> bool:
    words = {Path(word).name.removesuffix(".exe") for word in _asked(process.cmdline, [])}
    runs = process.pid in runners or bool(words & RUNNERS)
    return runs and not _stage(process, root)  # a stage is itself a `kedro run`


def _above(process: psutil.Process) -> list[psutil.Process]:
    found: list[psutil.Process] = _asked(process.parents, [])
    return found


def _asked(question: Any, otherwise: Any) -> Any:
    """Return what a process answers, if it is still there and ours to ask."""
    try:
        return question()
    except (psutil.Error, OSError):
        return otherwise
