"""DVC's own reproduce, with the stages run in this process, in the order in which one reads them.

DVC decides what to run, locks, restores from the run-cache and writes the lock file as ever. While
`reproduce` runs, three functions of DVC are replaced:

1. `dvc.stage.run.cmd_run`, which starts a stage's command: a stage that is a Kedro node is run here
   (`InProcess`), so that libraries are imported and shared data are loaded once.
2. `dvc.repo.reproduce._reproduce`, which goes through the stages: they are put in `reading_order`.
3. `dvc.dvcfile.modify_yaml`, which writes dvc.lock after every stage: see `changed_lock`.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import dvc.dvcfile
import dvc.repo.reproduce
import dvc.rwlock
import dvc.stage.run
from dvc.dvcfile import PROJECT_FILE
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.run import _enforce_cmd_list
from dvc.utils.serialize import dump_yaml, load_yaml

from kedro_dvc.configuration import BASE
from kedro_dvc.executors.jobs import Ended, Executor, Job, error_of
from kedro_dvc.in_process import InProcess, Interrupts
from kedro_dvc.parallel import Parallel, StageLocks
from kedro_dvc.project import load_study
from kedro_dvc.records import MemoryPeak
from kedro_dvc.resources import NOTHING, Resources, stated_resources
from kedro_dvc.safety import sharing
from kedro_dvc.up_to_date import RunFiles, files_before_run, note_run

LOCK = "dvc.lock"
RETRY = 1.0  # seconds until a lock is tried again


class Outcome(NamedTuple):
    """What became of a stage.

    Attributes:
        stage: Its address, as `dvc repro` takes it.
        what: `ran`, `restored` (from DVC's run-cache), `unchanged` or `failed`.
        seconds: From when DVC turned to it until its outputs were recorded.
        memory: The most that was resident while it ran, in bytes; 0 if it did not run.
        device_memory: The most on a CUDA device, in bytes; None without one.
        output: The last that it wrote, if it failed in another process.
    """

    stage: str
    what: str
    seconds: float
    memory: int = 0
    device_memory: int | None = None
    output: str = ""


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
    executor: Executor | None = None,
    **options: Any,
) -> None:
    """Bring stages up to date.

    Args:
        project: The project's root, which is also the working directory.
        targets: Addresses as `dvc repro` takes them: `dvc.yaml`, `dvc.yaml:train@large`.
        watcher: Is told what happens.
        isolate: Run each stage in a process of its own, as `dvc repro` does.
        wait: Wait for another DVC command that is in the way instead of failing.
        executor: Runs the stages, several at once; by default one after the other is run here.
        options: Those of `dvc.repo.Repo.reproduce`, such as `force`.

    Raises:
        dvc.exceptions.ReproductionError: If a stage has failed, with its error as the cause.
    """
    in_process = None if isolate else InProcess(project)
    run = _Run(project, watcher, wait, in_process, Interrupts())
    with ExitStack() as stack:
        stack.enter_context(run.interrupts.deferred())
        repo = stack.enter_context(Repo(str(project), _wait_for_lock=wait))
        if executor is not None:
            stack.callback(executor.close)
            run.parallel = Parallel(executor, Jobs(project).of, run.interrupts)
            stack.enter_context(_replaced(dvc.rwlock, "rwlock", StageLocks()))
        stack.enter_context(_replaced(dvc.repo.reproduce, "_reproduce", run.steps))
        stack.enter_context(_replaced(dvc.stage.run, "cmd_run", run.command))
        stack.enter_context(quick_locks(run.order))
        stack.enter_context(sharing())
        repo.reproduce(targets, repro_fn=run.step, **options)
    partly = options.get("allow_missing") or options.get("single_item")
    if run.files and len(targets) == 1 and Path(targets[0]).is_file() and not partly:
        note_run(project, targets[0], run.files)


class Jobs:
    """The jobs that stages are; what they need is read once a study."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._needs: dict[str, dict[str, Resources]] = {}  # by study, then by node

    def of(self, stage: Stage) -> Job:
        """Return the job that a stage is."""
        commands = _enforce_cmd_list(stage.cmd) if stage.cmd else []
        folder = os.path.relpath(stage.wdir, self._project)
        return Job(stage.addressing, commands, folder, self._resources(commands))

    def _resources(self, commands: list[str]) -> Resources:
        match [word for command in commands for word in shlex.split(command)]:
            case ["kedro", "run", "--env", study, "--pipelines", _, "--nodes", node]:
                pass
            case ["kedro", "run", "--pipelines", _, "--nodes", node]:
                study = BASE
            case ["kedro", "dvc", "sync", *_]:
                return NOTHING
            case _:
                return Resources()
        if study not in self._needs:
            self._needs[study] = stated_resources(load_study(self._project, study))
        return self._needs[study].get(node, Resources())


class LockOrder:
    """The order of the stages that a run adds to lock files: the one in which they are planned.

    Which of several stages ends first must not be seen in the files.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # of stages, by address
        self._before: dict[str, set[str]] = {}  # by lock file: those that were there

    def plan(self, stages: list[Stage]) -> None:
        """Note the order of a run."""
        self._places = {stage.addressing: place for place, stage in enumerate(stages)}

    def sort(self, path: str, content: dict[str, Any], before: Iterable[str]) -> None:
        """Put the stages of a lock file in order, of which those before the run keep theirs."""
        old = self._before.setdefault(path, set(before))
        file = os.path.relpath(Path(path).with_suffix(".yaml"))
        prefix = "" if file == PROJECT_FILE else f"{file}:"
        stages = content.get("stages", {})
        added = [name for name in stages if name not in old]
        for name in sorted(added, key=lambda name: self._places.get(f"{prefix}{name}", 0)):
            stages[name] = stages.pop(name)


@dataclass
class _Run:
    """What is done in the place of DVC's functions, and what they share."""

    project: Path
    watcher: Watcher
    wait: bool
    in_process: InProcess | None
    interrupts: Interrupts
    parallel: Parallel | None = None
    files: RunFiles | None = None  # of the whole run
    peaks: dict[str, MemoryPeak | Ended] = field(default_factory=dict)  # of the stages that ran
    order: LockOrder = field(default_factory=LockOrder)

    def steps(
        self, original: Callable[..., Any], stages: list[Stage], graph: Any = None, **options: Any
    ) -> Any:
        """Go through all stages; `graph` is None if only the targets are asked for."""
        if stages and graph is not None:
            stages = reading_order(stages, graph)
        self.watcher.planned([stage.addressing for stage in stages])
        self.files = files_before_run(self.project, stages)
        self.order.plan(stages)
        if self.parallel is None:
            return original(stages, graph=graph, **options)
        return self.parallel.steps(stages, graph, step=options.pop("repro_fn"), **options)

    def step(self, stage: Stage, **options: Any) -> Stage | None:
        """Bring one stage up to date; return it if anything was done."""
        if self.parallel is None:
            self.interrupts.check()
        self.watcher.began(stage.addressing)
        start, what = time.perf_counter(), "failed"
        try:
            done = self._when_unlocked(stage, options)
            ran = stage.addressing in self.peaks
            what = "unchanged" if done is None else "ran" if ran else "restored"
            return done
        finally:
            seconds, peak = time.perf_counter() - start, self.peaks.get(stage.addressing)
            outcome = Outcome(stage.addressing, what, seconds)
            if peak is not None:
                outcome = outcome._replace(memory=peak.resident, device_memory=peak.on_device)
            if isinstance(peak, Ended):
                outcome = outcome._replace(output=peak.output)
            self.watcher.ended(outcome)

    def _when_unlocked(self, stage: Stage, options: dict[str, Any]) -> Stage | None:
        while True:
            try:
                return dvc.repo.reproduce._reproduce_stage(stage, **options)
            except LockError as error:
                if not self.wait:
                    raise
                self.watcher.waits(str(error))
                with self.parallel.others() if self.parallel else self.interrupts.allowed():
                    time.sleep(RETRY)

    def command(
        self, original: Callable[..., None], stage: Stage, dry: bool = False, run_env: Any = None
    ) -> None:
        """Run a stage's command, here if it is known, and measure its memory."""
        if self.parallel is not None and not dry:
            self.peaks[stage.addressing] = ended = self.parallel.command(stage)
            if error := error_of(ended):
                raise error
            return
        with self.interrupts.allowed(), MemoryPeak() as peak:
            self.peaks[stage.addressing] = peak
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


def quick_locks(order: LockOrder) -> AbstractContextManager[None]:
    """Let DVC change its lock files as `changed_lock` does inside the context."""

    def modify(original: Callable[..., Any], path: str, fs: Any = None) -> Any:
        is_lock = Path(path).name == LOCK
        return changed_lock(path, fs, order) if is_lock else original(path, fs=fs)

    return _replaced(dvc.dvcfile, "modify_yaml", modify)


@contextmanager
def changed_lock(
    path: str, fs: Any = None, order: LockOrder | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the content of a lock file, which may not exist yet, and write what becomes of it.

    DVC's way keeps comments, in pure Python: with many stages that is seconds after each. No one
    writes comments there, and without them the bytes are the same.
    """
    content = load_yaml(path, fs=fs) if Path(path).exists() else {}
    before = list(content.get("stages", {}))
    yield content
    if order is not None:
        order.sort(path, content, before)
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
