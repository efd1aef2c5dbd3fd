"""Go on with fewer samples at once where memory runs out.

Which samples share a batch changes only the last bits of a model's results. A training step is
split only as its settings say (`micro_batch_size`), so that every run splits it alike: `must_fit`.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from seuf.inputs import InputError
from seuf.moe.batches import Batch
from seuf.moe.sharding import in_turn, ranks

Item = TypeVar("Item")
Result = TypeVar("Result")
SIGNS = (
    "out of memory",  # of CUDA and MPS
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
log = logging.getLogger(__name__)


class Backoff:
    """How many samples fit in memory at once: halved whenever they do not, and remembered.

    Args:
        advice: What to do where not even one fits.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.most: int | None = None  # no limit until something has failed

    def map_items(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """Yield the result of work on all items at once, or on as many at once as fit.

        Work that ran out of memory is called again with a part of the same items.

        Raises:
            InputError: If one item alone does not fit.
        """
        while len(items):
            part = items[: self.most]
            result, problem = _attempt(work, part)
            if problem is None:
                yield part, result
                items = items[len(part) :]
            else:
                self._halve(len(part), problem)

    def map_batch(
        self, batch: Batch, work: Callable[[Batch], Result]
    ) -> Iterator[tuple[Batch, Result]]:
        """Yield the result of work on a batch, or on each part of it that fits."""
        rows = range(len(batch.input_ids))
        for part, result in self.map_items(rows, lambda part: work(batch.part(part))):
            yield batch.part(part), result

    def map_batches(
        self, batches: Iterable[Batch], work: Callable[[Batch], Result]
    ) -> Iterator[tuple[Batch, Result]]:
        """Yield the results of `map_batch` on each batch; replicas take the batches in turn."""
        for results in in_turn(batches, lambda batch: list(self.map_batch(batch, work))):
            yield from results

    def call(self, size: int, work: Callable[[int], Result]) -> Result:
        """Return the result of work, which is called with how many samples it may take at once.

        Raises:
            InputError: If one sample alone does not fit.
        """
        while True:
            size = min(size, self.most or size)
            result, problem = _attempt(work, size)
            if problem is None:
                return result
            self._halve(size, problem)

    def _halve(self, size: int, problem: str) -> None:
        gc.collect(1)  # the youngest objects; a full collection takes seconds
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if ranks() > 1:  # the other processes would wait for passes that this one does not make
            raise InputError(
                f"Memory ran out in one of the processes that share the model ({problem}): lower "
                f"evaluation.batch_size and unlearning.batch_size, or {self.advice}."
            )
        if size == 1:
            raise InputError(f"Not even one sample fits in memory ({problem}): {self.advice}.")
        self.most = size // 2
        log.warning("%d samples at once do not fit in memory, going on with %d", size, self.most)


@contextmanager
def must_fit(advice: str) -> Iterator[None]:
    """Raise a clear error if memory runs out inside the context.

    Raises:
        InputError: With the advice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        problem = _first_line(error)
        raise InputError(f"A step does not fit in memory ({problem}): {advice}.") from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that a device, or the CPU, has no memory left."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or any(sign in str(error) for sign in SIGNS)


def _attempt(work: Callable[[Item], Result], given: Item) -> tuple[Any, str | None]:
    """Return the result of work, or the first line of the error that memory ran out.

    The error itself is dropped here: it keeps alive all tensors that the work had made so far.
    """
    try:
        return work(given), None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None, _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["out of memory"])[0].rstrip(".")
