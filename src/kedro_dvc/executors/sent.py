"""Jobs sent to a cluster, which decides when each begins; one that dies is sent again twice."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from kedro_dvc.executors.copies import Parcel
from kedro_dvc.executors.jobs import Ended, Executor, Job, LostError, StoppedError

ATTEMPTS = 3


class DiedError(Exception):
    """Why a job has died that may be sent again, in one line."""


class Task:
    """A job that was sent.

    Attributes:
        parcel: What it takes along where files are copied.
        sent: What the cluster gave for it when it was last sent.
        tried: The nodes to which it is not sent again.
    """

    def __init__(self, job: Job, parcel: Parcel | None = None) -> None:
        self.job, self.parcel = job, parcel
        self.sent: Any = None
        self.tried: list[str] = []


class SentJobs(Executor):
    """What the executors of clusters have in common; each says how it sends, waits and cancels.

    Args:
        most: How many are sent at once.
    """

    def __init__(self, most: int) -> None:
        self._most, self._admitted = most, set[str]()
        self._guard, self._stopped = threading.Lock(), False
        self._tasks: dict[str, Task] = {}  # by stage

    @abstractmethod
    def _send(self, task: Task) -> None:
        """Send a task, and set what `_wait` and `_cancel` need of it."""

    @abstractmethod
    def _wait(self, task: Task) -> Ended:
        """Wait until a task has ended.

        Raises:
            DiedError: If it has not come to its end.
        """

    @abstractmethod
    def _cancel(self, task: Task) -> None:
        """End a task at once; `_wait` then raises."""

    def _parcel(self, job: Job) -> Parcel | None:
        """Return what a job takes along."""
        return None

    def admit(self, waiting: Sequence[Job]) -> list[Job]:
        """Return those that may be sent; which of them begins is the cluster's to say."""
        with self._guard:
            admitted = list(waiting[: self._most - len(self._admitted)])
            self._admitted.update(job.stage for job in admitted)
        return admitted

    def submit(self, job: Job) -> Task:
        """Send a job."""
        task = Task(job, self._parcel(job))
        with self._guard:
            self._check_goes_on(job)
            self._tasks[job.stage] = task
            self._send(task)
        return task

    def result(self, handle: Task) -> Ended:
        """Wait until a job has ended, at the first try or another one.

        Raises:
            LostError: If it was stopped, or has died as often as it was tried.
        """
        job = handle.job
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return self._wait(handle)
                except DiedError as error:
                    with self._guard:
                        self._check_goes_on(job)
                        if attempt == ATTEMPTS:
                            died = f"{job.stage} died {ATTEMPTS} times, at last: {error}"
                            raise LostError(died) from None
                        self._send(handle)
            raise AssertionError
        finally:
            with self._guard:
                self._tasks.pop(job.stage, None)
            self.release(job)

    def _check_goes_on(self, job: Job) -> None:
        if self._stopped:
            raise StoppedError(f"{job.stage} was stopped") from None

    def release(self, job: Job) -> None:
        """Let another one be sent in the place of a job."""
        with self._guard:
            self._admitted.discard(job.stage)

    def stop(self) -> None:
        """Cancel all jobs."""
        with self._guard:
            self._stopped = True
            for task in self._tasks.values():
                if task.sent is not None:
                    self._cancel(task)
