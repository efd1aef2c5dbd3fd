"""DVC's own reproduce, with the stages run in this process.

DVC decides what to run, locks, restores from the run-cache and writes the lock file as ever; but a
stage that is a Kedro node is run here, so that libraries are imported and shared data are loaded
once. For that `dvc.stage.run.cmd_run` is replaced, and another name in `lockfile`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import dvc.stage.run
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import Stage

from seuf.kedro_dvc.running.in_process import InProcess
from seuf.kedro_dvc.running.interrupts import Interrupts
from seuf.kedro_dvc.running.lockfile import quick_locks
from seuf.kedro_dvc.running.peak import Peak
from seuf.kedro_dvc.running.sharing import sharing
from seuf.kedro_dvc.running.unchanged import Before, before, note

AGAIN = 1.0  # seconds until a lock is tried again


class Outcome(NamedTuple):
    """What became of a stage.

    Attributes:
        stage: Its address, as `dvc repro` takes it.
        what: `ran`, `restored` (from DVC's run-cache), `unchanged` or `failed`.
        seconds: From when DVC turned to it until its outputs were recorded.
        memory: The most that was resident while it ran, in bytes; 0 if it did not run.
        device_memory: The most on a CUDA device, in bytes; None without one.
    """

    stage: str
    what: str
    seconds: float
    memory: int = 0
    device_memory: int | None = None


class Watcher(Protocol):
    """Is told what happens."""

    def planned(self, stages: list[str]) -> None:
        """DVC will turn to these stages, in this order."""

    def began(self, stage: str) -> None:
        """It has turned to this one."""

    def waits(self, why: str) -> None:
        """Someone else holds a lock."""

    def ended(self, outcome: Outcome) -> None:
        """It is done with a stage."""


def reproduce(
    project: Path,
    targets: list[str],
    watcher: Watcher,
    isolate: bool = False,
    wait: bool = False,
    **options: Any,
) -> None:
    """Bring stages up to date.

    Args:
        project: The project's root, which is also the working directory.
        targets: Addresses as `dvc repro` takes them: `dvc.yaml`, `dvc.yaml:unlearn@seuf_ga`.
        watcher: Is told what happens.
        isolate: Run each stage in a process of its own, as `dvc repro` does.
        wait: Wait for another DVC command that is in the way instead of failing.
        options: Those of `dvc.repo.Repo.reproduce`, such as `force`.

    Raises:
        dvc.exceptions.ReproductionError: If a stage has failed, with its error as the cause.
    """
    whole = len(targets) == 1 and Path(targets[0]).is_file() and not options.get("allow_missing")
    runs = _Runs(project, targets, watcher, wait, whole)
    here = None if isolate else InProcess(project)
    repo = Repo(str(project), _wait_for_lock=wait)
    with runs.interrupts.held(), repo, _commands_run(here, runs), sharing(), quick_locks():
        repo.reproduce(targets, repro_fn=runs.reproduce, **options)
    if runs.before:
        note(project, targets[0], runs.before)


@dataclass
class _Runs:
    """Takes each stage through DVC's own steps and tells the watcher."""

    project: Path
    targets: list[str]
    watcher: Watcher
    wait: bool
    whole: bool  # all of a dvc.yaml: its end can be noted, see `unchanged`
    peak: Peak | None = None  # of the stage that DVC is at, if it ran
    interrupts: Interrupts = field(default_factory=Interrupts)
    before: Before | None = field(default=None, init=False)
    _planned: bool = field(default=False, init=False)

    def reproduce(self, stage: Stage, **options: Any) -> Stage | None:
        """Bring one stage up to date; return it if anything was done."""
        if not self._planned:
            self._plan(stage.repo)
        self.interrupts.check()
        self.watcher.began(stage.addressing)
        start, self.peak, what = time.perf_counter(), None, "failed"
        try:
            done = self._patiently(stage, options)
            what = "unchanged" if done is None else "ran" if self.peak else "restored"
            return done
        finally:
            seconds, peak = time.perf_counter() - start, self.peak or Peak()
            self.watcher.ended(
                Outcome(stage.addressing, what, seconds, peak.memory, peak.device_memory)
            )

    def _patiently(self, stage: Stage, options: dict[str, Any]) -> Stage | None:
        while True:
            try:
                done = stage.reproduce(**options)
                if done is not None:
                    stage.dump(update_pipeline=False)
                return done
            except LockError as error:
                if not self.wait:
                    raise
                self.watcher.waits(str(error))
                with self.interrupts.welcome():
                    time.sleep(AGAIN)

    def _plan(self, repo: Repo) -> None:
        asked = [stage for stage in repo.index.stages if self._is_target(stage)]
        steps = plan_repro(get_active_graph(repo.index.graph), asked)
        self.watcher.planned([stage.addressing for stage in steps])
        self.before = before(self.project, steps) if self.whole else None
        self._planned = True

    def _is_target(self, stage: Stage) -> bool:
        address = f"{stage.path_in_repo}:{stage.name}" if hasattr(stage, "name") else stage.relpath
        return any(address == t or address.startswith((f"{t}:", f"{t}@")) for t in self.targets)


@contextmanager
def _commands_run(here: InProcess | None, runs: _Runs) -> Iterator[None]:
    """Let DVC run commands here, or with None as ever; measure their memory."""
    original = dvc.stage.run.cmd_run

    def cmd_run(stage: Stage, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        with runs.interrupts.welcome(), Peak() as runs.peak:
            if dry or here is None or not here(stage.cmd):
                original(stage, dry=dry, run_env=run_env)

    dvc.stage.run.cmd_run = cmd_run
    try:
        yield
    finally:
        dvc.stage.run.cmd_run = original
