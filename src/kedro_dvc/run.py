"""DVC's own reproduce, with the stages run in this process, in the order in which one reads them.

DVC decides what to run, locks, restores from the run-cache and writes the lock file as ever. While
`reproduce` runs, three functions of DVC are replaced:

1. `dvc.stage.run.cmd_run`, which starts a stage's command: a stage that is a Kedro node is run here
   (`InProcess`), so that libraries are imported and shared data are loaded once.
2. `dvc.repo.reproduce._reproduce`, which goes through the stages: they are put in `reading_order`.
3. `dvc.dvcfile.modify_yaml`, which writes dvc.lock after every stage: see `changed_lock`.
"""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import dvc.dvcfile
import dvc.repo.reproduce
import dvc.stage.run
import psutil
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.utils.serialize import dump_yaml, load_yaml
from kedro.framework.session import KedroSession

from kedro_dvc.files import WorkflowError
from kedro_dvc.project import BASE, dvc_file, load_study
from kedro_dvc.records import edited_since_start
from kedro_dvc.safety import sharing
from kedro_dvc.stages import GUARD, write_stamp
from kedro_dvc.sync import sync
from kedro_dvc.up_to_date import RunFiles, files_before_run, note_run

log = logging.getLogger(__name__)

LOCK = "dvc.lock"
RETRY = 1.0  # seconds until a lock is tried again
INTERVAL = 0.05  # seconds between two measurements of memory


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
        targets: Addresses as `dvc repro` takes them: `dvc.yaml`, `dvc.yaml:train@large`.
        watcher: Is told what happens.
        isolate: Run each stage in a process of its own, as `dvc repro` does.
        wait: Wait for another DVC command that is in the way instead of failing.
        options: Those of `dvc.repo.Repo.reproduce`, such as `force`.

    Raises:
        dvc.exceptions.ReproductionError: If a stage has failed, with its error as the cause.
    """
    in_process = None if isolate else InProcess(project)
    run = _Run(project, watcher, wait, in_process, Interrupts())
    with (
        run.interrupts.deferred(),
        Repo(str(project), _wait_for_lock=wait) as repo,
        _replaced(dvc.repo.reproduce, "_reproduce", run.steps),
        _replaced(dvc.stage.run, "cmd_run", run.command),
        quick_locks(),
        sharing(),
    ):
        repo.reproduce(targets, repro_fn=run.step, **options)
    partly = options.get("allow_missing") or options.get("single_item")
    if run.files and len(targets) == 1 and Path(targets[0]).is_file() and not partly:
        note_run(project, targets[0], run.files)


@dataclass
class _Run:
    """What is done in the place of DVC's functions, and what they share."""

    project: Path
    watcher: Watcher
    wait: bool
    in_process: InProcess | None
    interrupts: Interrupts
    files: RunFiles | None = None  # of the whole run
    memory: MemoryPeak | None = None  # of the stage that DVC is at, if it ran

    def steps(
        self, original: Callable[..., Any], stages: list[Stage], graph: Any = None, **options: Any
    ) -> Any:
        """Go through all stages; `graph` is None if only the targets are asked for."""
        if stages and graph is not None:
            stages = reading_order(stages, graph)
        self.watcher.planned([stage.addressing for stage in stages])
        self.files = files_before_run(self.project, stages)
        return original(stages, graph=graph, **options)

    def step(self, stage: Stage, **options: Any) -> Stage | None:
        """Bring one stage up to date; return it if anything was done."""
        self.interrupts.check()
        self.watcher.began(stage.addressing)
        start, self.memory, what = time.perf_counter(), None, "failed"
        try:
            done = self._when_unlocked(stage, options)
            what = "unchanged" if done is None else "ran" if self.memory else "restored"
            return done
        finally:
            seconds, memory = time.perf_counter() - start, self.memory or MemoryPeak()
            self.watcher.ended(
                Outcome(stage.addressing, what, seconds, memory.resident, memory.on_device)
            )

    def _when_unlocked(self, stage: Stage, options: dict[str, Any]) -> Stage | None:
        while True:
            try:
                return dvc.repo.reproduce._reproduce_stage(stage, **options)
            except LockError as error:
                if not self.wait:
                    raise
                self.watcher.waits(str(error))
                with self.interrupts.allowed():
                    time.sleep(RETRY)

    def command(
        self, original: Callable[..., None], stage: Stage, dry: bool = False, run_env: Any = None
    ) -> None:
        """Run a stage's command, here if it is known, and measure its memory."""
        with self.interrupts.allowed(), MemoryPeak() as self.memory:
            if dry or self.in_process is None or not self.in_process(stage.cmd):
                original(stage, dry=dry, run_env=run_env)


def reading_order(stages: list[Stage], graph: Any) -> list[Stage]:
    """Return the stages, each after those that it depends on, as one reads their dvc.yaml.

    But the stages of one item of a matrix, such as `train@large` and `evaluate@large`, go one
    after the other, item by item.

    Args:
        stages: Stages of one repository.
        graph: DVC's graph: from each stage to those that it depends on.
    """
    position = {stage: place for place, stage in enumerate(stages[0].repo.index.stages)}
    by_place = {position[stage]: stage for stage in stages}
    needs = {
        place: {position[one] for one in graph.successors(stage)} & by_place.keys()
        for place, stage in by_place.items()
    }
    items = {place: stage.addressing.partition("@")[2] for place, stage in by_place.items()}
    order: list[int] = []
    while needs:
        item = items[order[-1]] if order else ""
        ready = [place for place in needs if needs.keys().isdisjoint(needs[place])]
        order.append(min(ready, key=lambda place: (not item or items[place] != item, place)))
        del needs[order[-1]]
    return [by_place[place] for place in order]


@dataclass
class InProcess:
    """Runs commands as their own process would; call it with one.

    A stage whose code or configuration was edited since this process began is not run here, where
    the modules of before are loaded.

    Attributes:
        project: The project's root, which is also the working directory.
    """

    project: Path
    _study: str | None = field(default=None, init=False)  # whose pipelines are loaded

    def __call__(self, command: str) -> bool:
        """Run a command, or return False: it needs a process of its own, or is none of ours."""
        match shlex.split(command):
            case ["kedro", "run", "--env", study, "--pipelines", pipeline, "--nodes", node]:
                if here := self._as_loaded(study, node):
                    self._run(study, pipeline, node)
            case ["kedro", "run", "--pipelines", pipeline, "--nodes", node]:
                if here := self._as_loaded(BASE, node):
                    self._run(BASE, pipeline, node)
            case ["kedro", "dvc", "sync", "--check", "--env", study, "--stamp"]:
                if here := self._as_loaded(study, GUARD):
                    self._guard(study)
            case _:
                here = False
        return here

    def _as_loaded(self, study: str, node: str) -> bool:
        """Return whether what a stage watches is as it was when this process began."""
        files = edited_since_start(self.project, study, node)
        if files:
            log.info("%s runs in a process of its own: %s was edited", node, ", ".join(files))
        return not files

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


class Interrupts:
    """Lets Ctrl-C stop a stage at once, and DVC only between its own steps.

    DVC expects it while a command runs in another process. While DVC writes its lock an interrupt
    would leave half a file behind, which no later command can read.
    """

    def __init__(self) -> None:
        self._allowed, self._pending = False, False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep an interrupt for the next `allowed` or `check`, or for the end; a second comes."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread alone
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self.check()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise an interrupt at once inside the context, a pending one at its beginning."""
        self.check()
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def check(self) -> None:
        """Raise a pending interrupt."""
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: Any) -> None:
        if self._allowed or self._pending:
            raise KeyboardInterrupt
        self._pending = True


class MemoryPeak:
    """While entered, measures the memory of this process and of those it has started.

    Attributes:
        resident: The most that was resident at a measurement, in bytes.
        on_device: The most that torch has allocated on a CUDA device, in bytes; None without.
    """

    def __init__(self) -> None:
        self.resident = 0
        self.on_device: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if (cuda := _cuda()) is not None:
            self.on_device = cuda.max_memory_allocated()

    def _measure(self) -> None:
        process, known = psutil.Process(), set[int]()
        while True:
            children = process.children(recursive=True)
            total = 0
            # one that has just been forked would count this process's memory as its own
            for one in (process, *(child for child in children if child.pid in known)):
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:  # it has ended since
                    continue
            known = {child.pid for child in children}
            self.resident = max(self.resident, total)
            if self._over.wait(INTERVAL):
                return


def _cuda() -> Any:
    """Return torch.cuda if some stage has begun to use it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def quick_locks() -> AbstractContextManager[None]:
    """Let DVC change its lock files as `changed_lock` does inside the context."""

    def modify(original: Callable[..., Any], path: str, fs: Any = None) -> Any:
        return changed_lock(path, fs) if Path(path).name == LOCK else original(path, fs=fs)

    return _replaced(dvc.dvcfile, "modify_yaml", modify)


@contextmanager
def changed_lock(path: str, fs: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the content of a lock file, which may not exist yet, and write what becomes of it.

    DVC's way keeps comments, in pure Python: with many stages that is seconds after each. No one
    writes comments there, and without them the bytes are the same.
    """
    content = load_yaml(path, fs=fs) if Path(path).exists() else {}
    yield content
    dump_yaml(path, content, fs=fs)


@contextmanager
def _replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Put a function, which is given the original as its first argument, in a module."""
    original = getattr(module, name)
    setattr(module, name, partial(function, original))
    try:
        yield
    finally:
        setattr(module, name, original)
