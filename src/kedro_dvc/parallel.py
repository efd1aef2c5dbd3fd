"""DVC's stages several at once: DVC's graph says which, an `Executor` where.

Each stage goes through DVC's own reproduce in a thread of its own, and one thread at a time: DVC is
not made for more. Where DVC would run the stage's command, the thread gives the job away and lets
another one have its turn until the job has ended. So all that is asked, restored, saved and locked
is DVC's own, by this process alone, in whichever order the jobs end.

While it runs, two more things of DVC are replaced: `dvc.rwlock.rwlock` (`StageLocks`), and the
order in which a lock file gets new stages, which is the one of `reading_order` here too.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.lock import LockBase
from dvc.repo.reproduce import _raise_error, handle_error
from dvc.stage import Stage

from kedro_dvc.executors.jobs import Ended, Executor, Job
from kedro_dvc.in_process import Interrupts

Step = Callable[..., Stage | None]  # brings a stage up to date


class Turn:
    """The right to use DVC, which one thread has at a time, and DVC's own lock with it."""

    def __init__(self, lock: LockBase) -> None:
        self._lock, self._turn = lock, threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have it inside the context."""
        with self._turn, self._lock:
            yield

    @contextmanager
    def given_away(self, locked: bool) -> Iterator[None]:
        """Let others have it inside the context; DVC may have unlocked its own lock already."""
        if locked:
            self._lock.unlock()
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()
            if locked:
                self._lock.lock()


class StageLocks:
    """DVC's locks of files, for several stages of one process.

    DVC takes them anew in each of some ten functions that call each other; here the outermost alone
    does, as the table grows with the stages at work. Two stages that read a file have a lock each:
    the name of the stage tells them apart, and who else wants the file reads it.
    """

    def __init__(self) -> None:
        self._held = threading.local()

    @contextmanager
    def __call__(
        self,
        original: Callable[..., Any],
        folder: str,
        fs: Any,
        command: str,
        read: list[str],
        write: list[str],
        hardlink: bool,
    ) -> Iterator[None]:
        """Do what `dvc.rwlock.rwlock` does, unless this stage has these locks already."""
        reads, writes = getattr(self._held, "locks", (frozenset[str](), frozenset[str]()))
        if writes.issuperset(write) and (reads | writes).issuperset(read):
            yield
            return
        own = f"{command}, stage {threading.current_thread().name}"
        with original(folder, fs, own, read, write, hardlink):
            self._held.locks = (reads.union(read), writes.union(write))
            try:
                yield
            finally:
                self._held.locks = (reads, writes)


class Parallel:
    """Goes through stages as DVC's `_reproduce` does, with several of them at work.

    Args:
        executor: Runs them.
        job_of: Returns the job that a stage is.
        interrupts: Lets Ctrl-C stop the run while it waits.
    """

    def __init__(
        self, executor: Executor, job_of: Callable[[Stage], Job], interrupts: Interrupts
    ) -> None:
        self._executor, self._job_of, self._interrupts = executor, job_of, interrupts
        self._jobs: dict[Stage, Job] = {}
        self._turn: Turn | None = None
        self._has_failure = False  # known before DVC has done with the stage
        self._events: queue.SimpleQueue[tuple[Stage, Any] | None] = queue.SimpleQueue()

    def command(self, stage: Stage) -> Ended:
        """Run a stage's command, in the place of DVC, which has let go of its lock."""
        ended, job = None, self._jobs[stage]
        if self._executor.copies:
            job = job._replace(inputs=_read_by(stage))
        with self.others(locked=False):
            try:
                ended = self._executor.result(self._executor.submit(job))
            finally:
                self._has_failure |= ended is None or bool(ended.errors)
        return ended

    @contextmanager
    def others(self, locked: bool = True) -> Iterator[None]:
        """Let other stages have their turn inside the context.

        Args:
            locked: Whether DVC holds its own lock now, which it does not amid a stage's command.
        """
        assert self._turn is not None
        with self._turn.given_away(locked):
            try:
                yield
            finally:
                self._events.put(None)  # there may be room for another stage

    def steps(
        self,
        stages: list[Stage],
        graph: Any,
        step: Step,
        on_error: str = "fail",
        **options: Any,
    ) -> list[Stage]:
        """Bring stages up to date, each when those before it that it has to do with are.

        Args:
            stages: In the order in which they begin where there is no room for all.
            graph: DVC's: from each stage to those that it depends on; None where they alone are
                asked for.
            step: Brings one up to date.
            on_error: `fail` begins no more after a failure, but waits for those at work;
                `keep-going` only leaves out what needs the stage.
            options: Passed on to `step`.

        Returns:
            Those for which something was done.
        """
        if not stages:
            return []
        self._jobs = {stage: self._job_of(stage) for stage in stages}
        self._executor.check(list(self._jobs.values()))
        lock = stages[0].repo.lock
        self._turn = Turn(lock)
        lock.unlock()
        try:
            with ThreadPoolExecutor(len(stages)) as threads:
                try:
                    return self._all(threads, stages, graph, partial(step, **options), on_error)
                except BaseException:
                    self._executor.stop()
                    raise
        finally:
            lock.lock()

    def _all(
        self,
        threads: ThreadPoolExecutor,
        stages: list[Stage],
        graph: Any,
        step: Step,
        on_error: str,
    ) -> list[Stage]:
        waiting = _neighbours_before(stages)
        after: dict[Stage, list[Stage]] = defaultdict(list)
        for stage, before in waiting.items():
            for one in before:
                after[one].append(stage)
        at_work: set[Stage] = set()
        done: list[Stage] = []
        failed: dict[Stage, Exception] = {}
        while True:
            if self._has_failure and on_error == "fail":
                waiting.clear()
            if not (waiting or at_work):
                break
            ready = [stage for stage in waiting if not waiting[stage]]
            for stage in self._admitted(ready):
                del waiting[stage]
                at_work.add(stage)
                threads.submit(
                    self._one, stage, partial(step, stage, upstream=_above(stage, graph))
                )
            with self._interrupts.allowed():
                event = self._events.get()
            if event is None:
                continue
            stage, outcome = event
            at_work.remove(stage)
            over = {stage}
            if isinstance(outcome, Exception):
                failed[stage] = outcome
                self._has_failure = True
                if on_error != "fail":
                    over |= handle_error(graph, on_error, outcome, stage)
            elif outcome is not None:
                done.append(outcome)
            for one in over:
                waiting.pop(one, None)
                for later in after[one]:
                    if later in waiting:
                        waiting[later].discard(one)
        if failed:
            first = next(iter(failed))
            _raise_error(*((failed[first], first) if on_error == "fail" else (None, *failed)))
        return done

    def _admitted(self, ready: list[Stage]) -> list[Stage]:
        """Return the stages that the executor has room for now."""
        admitted = {job.stage for job in self._executor.admit([self._jobs[one] for one in ready])}
        return [stage for stage in ready if stage.addressing in admitted]

    def _one(self, stage: Stage, step: Callable[[], Stage | None]) -> None:
        """Bring a stage up to date in this thread and tell what came of it."""
        assert self._turn is not None
        threading.current_thread().name = stage.addressing
        outcome: Any = None
        try:
            with self._turn.taken():
                outcome = step()
        except Exception as error:
            outcome = error
        finally:
            self._executor.release(self._jobs[stage])
            self._events.put((stage, outcome))


def _read_by(stage: Stage) -> dict[str, str]:
    """Return the MD5 of each file that a stage reads; of a folder, of all in it."""
    stage.save_deps()
    files = {}
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            continue
        path = os.path.relpath(dep.fs_path, stage.repo.root_dir)
        if dep.hash_info.isdir:
            for key, _, info in dep.get_obj() or ():
                files["/".join([path, *key])] = info.value
        else:
            files[path] = dep.hash_info.value
    return files


def _above(stage: Stage, graph: Any) -> list[Stage]:
    return list(graph.successors(stage)) if graph is not None else []


def _neighbours_before(stages: list[Stage]) -> dict[Stage, set[Stage]]:
    """Return for each stage which of those before it must have ended when it begins.

    These are its neighbours in the whole graph of the repository, where a frozen stage, too, is
    connected with what it reads: its files must not change while DVC looks at them.
    """
    whole, place = stages[0].repo.index.graph, {stage: n for n, stage in enumerate(stages)}
    return {
        stage: {
            one
            for one in (*whole.successors(stage), *whole.predecessors(stage))
            if place.get(one, n) < n
        }
        for stage, n in place.items()
    }
