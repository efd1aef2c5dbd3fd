"""Ctrl-C, which stops a stage at once, and DVC only between its own steps.

DVC expects it while a command runs in another process. Amid the writing of its lock it would leave
half a file behind, which no later command can read.

The commands of generated stages, run in this process.

dvc.lock, written after every stage, without the time that DVC spends on its comments.

DVC reads the file so that comments survive, in pure Python: with many stages that is seconds for
each. No one writes comments there. The bytes that are written are the same.

The most memory that a piece of work takes.

DVC's own reproduce, with the stages run in this process.

DVC decides what to run, locks, restores from the run-cache and writes the lock file as ever; but a
stage that is a Kedro node is run here, so that libraries are imported and shared data are loaded
once. For that `dvc.stage.run.cmd_run` is replaced, and another name in `lockfile`.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import dvc.dvcfile
import dvc.stage.run
import psutil
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import Stage
from dvc.utils.serialize import dump_yaml, load_yaml
from kedro.framework.session import KedroSession

from kedro_dvc.files import WorkflowError
from kedro_dvc.project import BASE, dvc_file, load_study
from kedro_dvc.safety import sharing
from kedro_dvc.stages import write_stamp
from kedro_dvc.sync import sync
from kedro_dvc.up_to_date import Before, before, note


class Interrupts:
    """Says when an interrupt may come; in between it waits, unless it is the second."""

    def __init__(self) -> None:
        self._welcome, self._waiting = False, False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let none come inside the context but where `welcome` says so; then the one that waits."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python tells the main thread alone
            return
        before = signal.signal(signal.SIGINT, self._come)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self.check()

    @contextmanager
    def welcome(self) -> Iterator[None]:
        """Let them come inside the context, the one that waits at once."""
        self.check()
        self._welcome = True
        try:
            yield
        finally:
            self._welcome = False

    def check(self) -> None:
        """Let the one come that waits."""
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def _come(self, number: int, frame: Any) -> None:
        if self._welcome or self._waiting:
            raise KeyboardInterrupt
        self._waiting = True


@dataclass
class InProcess:
    """Runs commands as their own process would; call it with one.

    Attributes:
        project: The project's root, which is also the working directory.
    """

    project: Path
    _study: str | None = field(default=None, init=False)  # whose pipelines are loaded

    def __call__(self, command: str) -> bool:
        """Run a command, or return False if it is not one that `kedro dvc sync` writes."""
        match shlex.split(command):
            case ["kedro", "run", "--env", study, "--pipelines", pipeline, "--nodes", node]:
                self._run(study, pipeline, node)
            case ["kedro", "run", "--pipelines", pipeline, "--nodes", node]:
                self._run(BASE, pipeline, node)
            case ["kedro", "dvc", "sync", "--check", "--env", study, "--stamp"]:
                self._guard(study)
            case _:
                return False
        return True

    def _run(self, study: str, pipeline: str, node: str) -> None:
        if study != self._study:
            load_study(self.project, study)
            self._study = study
        session = KedroSession.create(self.project, env=study)
        session.run(pipeline_names=[pipeline], node_names=[node])
        session.close()

    def _guard(self, study: str) -> None:
        if sync(self.project, study, write=False):
            raise WorkflowError(f"{dvc_file(study)} is behind: run `kedro dvc sync`")
        self._study = study
        write_stamp(self.project, study)


LOCK = "dvc.lock"


@contextmanager
def quick_locks() -> Iterator[None]:
    """Let DVC change its lock files as `changed` does inside the context."""
    original = dvc.dvcfile.modify_yaml

    def modify(path: str, fs: Any = None) -> Any:
        return changed(path, fs) if Path(path).name == LOCK else original(path, fs=fs)

    dvc.dvcfile.modify_yaml = modify
    try:
        yield
    finally:
        dvc.dvcfile.modify_yaml = original


@contextmanager
def changed(path: str, fs: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the content of a lock file, which may not exist yet, and write what becomes of it."""
    content = load_yaml(path, fs=fs) if Path(path).exists() else {}
    yield content
    dump_yaml(path, content, fs=fs)


SECONDS = 0.05  # between two looks


class Peak:
    """While entered, looks at the memory of this process and of those it has started.

    Attributes:
        memory: The most that was resident at a look, in bytes.
        device_memory: The most that torch has allocated on a CUDA device, in bytes; None without.
    """

    def __init__(self) -> None:
        self.memory = 0
        self.device_memory: int | None = None
        self._process = psutil.Process()
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
        self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._looking.join()
        if (cuda := _cuda()) is not None:
            self.device_memory = cuda.max_memory_allocated()

    def _look(self) -> None:
        while True:
            self.memory = max(self.memory, self._resident())
            if self._over.wait(SECONDS):
                return

    def _resident(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # it has ended since
                continue
        return total


def _cuda() -> Any:
    """Return torch.cuda if some stage has begun to use it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


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
