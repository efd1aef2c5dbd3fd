"""DVC's own reproduce, with the stages run in this process, in the order in which one reads them.

DVC decides what to run, locks, restores from the run-cache and writes the lock file as ever. While
`reproduce` runs, three functions of DVC are replaced:

1. `dvc.stage.run.cmd_run`, which starts a stage's command: a stage that is a Kedro node is run here
   (`InProcess`), so that libraries are imported and shared data are loaded once.
2. `dvc.repo.reproduce._reproduce`, which goes through the stages: they are put in `reading_order`.
3. `dvc.dvcfile.modify_yaml`, which writes dvc.lock after every stage: see `lock_file`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import dvc.dvcfile
import dvc.repo.reproduce
import dvc.rwlock
import dvc.stage.run
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.run import _enforce_cmd_list

from kedro_dvc.configuration import BASE
from kedro_dvc.executors.jobs import Ended, Executor, Job, LostError, StoppedError, error_of
from kedro_dvc.files import WorkflowError
from kedro_dvc.in_process import InProcess, Interrupts
from kedro_dvc.lock_file import LockFiles, replaced
from kedro_dvc.parallel import Parallel, StageLocks
from kedro_dvc.project import load_study
from kedro_dvc.resources import NOTHING, MemoryPeak, Resources, stated_resources
from kedro_dvc.safety import sharing
from kedro_dvc.stages import words_of
from kedro_dvc.up_to_date import RunFiles, files_before_run, note_run

RETRY = 1.0  # seconds until a lock is tried again


class Outcome(NamedTuple):
    """What became of a stage.

    Attributes:
        stage: Its address, as `dvc repro` takes it.
        what: `ran`, `restored` (from DVC's run-cache), `noted` (a .dvc file now has the hash of
            data that were edited), `unchanged`, `failed` or `stopped`.
        seconds: From when DVC turned to it until its outputs were recorded.
        memory: The most that was resident while it ran, in bytes; 0 if it did not run.
        device_memory: The most on a CUDA device, in bytes; None without one.
        output: What it wrote to the terminal, if it ran in another process; None if here.
        warnings: What it warned of there.
    """

    stage: str
    what: str
    seconds: float
    memory: int = 0
    device_memory: int | None = None
    output: str | None = None
    warnings: Sequence[str] = ()


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
        WorkflowError: If a target is a pattern that no stage fits.
    """
    in_process = None if isolate else InProcess(project)
    run = _Run(project, watcher, wait, in_process, Interrupts())
    with ExitStack() as stack:
        stack.enter_context(run.interrupts.deferred())
        repo = stack.enter_context(Repo(str(project), _wait_for_lock=wait))
        if executor is not None:
            stack.callback(executor.close)
            run.parallel = Parallel(executor, Jobs(project).of, run.interrupts)
            stack.enter_context(replaced(dvc.rwlock, "rwlock", StageLocks()))
        stack.enter_context(replaced(dvc.repo.reproduce, "_reproduce", run.steps))
        stack.enter_context(replaced(dvc.stage.run, "cmd_run", run.command))
        stack.enter_context(replaced(dvc.dvcfile, "modify_yaml", run.locks.modify))
        stack.enter_context(sharing())
        for target in targets if options.get("glob") else []:
            if not repo.stage.collect(target, glob=True):  # DVC would run all stages of all files
                raise WorkflowError(f"No stage fits {target!r}.")
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
        outputs = {os.path.relpath(out.fs_path, self._project): out.remote for out in stage.outs}
        return Job(stage.addressing, commands, folder, self._resources(commands), outputs)

    def _resources(self, commands: list[str]) -> Resources:
        match words_of(commands):
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
    locks: LockFiles = field(default_factory=LockFiles)

    def steps(
        self, original: Callable[..., Any], stages: list[Stage], graph: Any = None, **options: Any
    ) -> Any:
        """Go through all stages; `graph` is None if only the targets are asked for."""
        if stages and graph is not None:
            stages = reading_order(stages, graph)
        self.watcher.planned([stage.addressing for stage in stages])
        self.files = files_before_run(self.project, stages)
        self.locks.plan(stages)
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
            made = "ran" if ran else "restored" if stage.cmd else "noted"
            what = "unchanged" if done is None else made
            return done
        except (KeyboardInterrupt, StoppedError):
            what = "stopped"
            raise
        finally:
            seconds, peak = time.perf_counter() - start, self.peaks.get(stage.addressing)
            outcome = Outcome(stage.addressing, what, seconds)
            if peak is not None:
                outcome = outcome._replace(memory=peak.resident, device_memory=peak.on_device)
            if isinstance(peak, Ended):
                outcome = outcome._replace(output=peak.output, warnings=peak.warnings)
            self.watcher.ended(outcome)

    def _when_unlocked(self, stage: Stage, options: dict[str, Any]) -> Stage | None:
        while True:
            try:
                _check_lock_file(stage, options)
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
        if not dry:
            _check_cache(stage)
        if self.parallel is not None and not dry:
            try:
                self.peaks[stage.addressing] = ended = self.parallel.command(stage)
            except LostError as lost:
                self.peaks[stage.addressing] = Ended(0, None, [], lost.output)
                raise
            if error := error_of(ended):
                raise error
            return
        with self.interrupts.allowed(), MemoryPeak() as peak:
            self.peaks[stage.addressing] = peak
            commands = _enforce_cmd_list(stage.cmd)
            here = None if dry or len(commands) != 1 else self.in_process
            if here is None or not here(commands[0]):
                with self.interrupts.noted(dvc.stage.run):
                    original(stage, dry=dry, run_env=run_env)


def _check_lock_file(stage: Stage, options: dict[str, Any]) -> None:
    """Raise a `PermissionError` if a stage is to be run and its lock file is read-only.

    It is renamed into its place, which the rights of the file before would not hinder.
    """
    lock = Path(stage.path).with_suffix(".lock")
    if not lock.exists() or os.access(lock, os.W_OK):
        return
    if options.get("force") or stage.changed(
        options.get("allow_missing", False), options.get("upstream")
    ):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.path.relpath(lock))


def _check_cache(stage: Stage) -> None:
    """Raise a `WorkflowError` if DVC could not keep what a stage is about to make."""
    cache = Path(stage.repo.cache.local.path)
    folder = next(one for one in (cache, *cache.parents) if one.exists())
    if not os.access(folder, os.W_OK):
        raise WorkflowError(
            f"DVC's cache {folder} cannot be written to, so what {stage.addressing} makes could "
            f"not be kept. `dvc cache dir --local FOLDER` names another; "
            f"`dvc checkout {stage.addressing}` brings back what was there."
        )


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
