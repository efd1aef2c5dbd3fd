"""Go on with fewer samples at once where memory runs out.

Which samples share a batch decides only the last bits of a model's results. A training step is
split only as its settings say (`micro_batch_size`), so that every run has the same: `must_fit`.
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

Given = TypeVar("Given")
Made = TypeVar("Made")
SIGNS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
log = logging.getLogger(__name__)


class Backoff:
    """How many samples fit in memory at once: halved whenever they do not, and remembered.

    Args:
        advice: What to do where not even one fits.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.most: int | None = None  # nothing has failed yet

    def parts(
        self, items: Sequence[Given], work: Callable[[Sequence[Given]], Made]
    ) -> Iterator[tuple[Sequence[Given], Made]]:
        """Yield what work makes of the items: of all of them, or of as many at once as fit.

        Work may be called again with a part of the same items, if it did not come to its end.

        Raises:
            InputError: If one item alone does not fit.
        """
        while len(items):
            part = items[: self.most]
            made, problem = _attempt(work, part)
            if problem is None:
                yield part, made
                items = items[len(part) :]
            else:
                self._halve(len(part), problem)

    def rows(self, batch: Batch, work: Callable[[Batch], Made]) -> Iterator[tuple[Batch, Made]]:
        """Yield what work makes of a batch, or of parts of it, as `parts` does."""
        rows = range(len(batch.input_ids))
        for part, made in self.parts(rows, lambda part: work(batch.part(part))):
            yield batch.part(part), made

    def all_rows(
        self, batches: Iterable[Batch], work: Callable[[Batch], Made]
    ) -> Iterator[tuple[Batch, Made]]:
        """Yield what work makes of batches, as `rows` does; replicas take them in turn."""
        for of_batch in in_turn(batches, lambda batch: list(self.rows(batch, work))):
            yield from of_batch

    def whole(self, size: int, work: Callable[[int], Made]) -> Made:
        """Return what work makes, which is called with how many samples it may take at once.

        Raises:
            InputError: If one sample alone does not fit.
        """
        while True:
            size = min(size, self.most or size)
            made, problem = _attempt(work, size)
            if problem is None:
                return made
            self._halve(size, problem)

    def _halve(self, tried: int, problem: str) -> None:
        gc.collect(1)  # the youngest objects; a full collection takes seconds
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if ranks() > 1:  # others would wait for passes that are not made here
            raise InputError(
                f"Memory ran out in one of the processes that share the model ({problem}): lower "
                f"evaluation.batch_size and unlearning.batch_size, or {self.advice}."
            )
        if tried == 1:
            raise InputError(f"Not even one sample fits in memory ({problem}): {self.advice}.")
        self.most = tried // 2
        log.warning("%d samples at once do not fit in memory, going on with %d", tried, self.most)


@contextmanager
def must_fit(advice: str) -> Iterator[None]:
    """Raise a clear error if memory runs out inside the context.

    Raises:
        InputError: With the advice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        problem = _first_line(error)
        raise InputError(f"A step does not fit in memory ({problem}): {advice}.") from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell if an error says that a device, or the CPU's allocator, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in SIGNS)


def _attempt(work: Callable[[Given], Made], given: Given) -> tuple[Any, str | None]:
    """Return what work makes, or the first line of the error that memory ran out.

    The error itself is dropped here: it keeps alive all that the work had made so far.
    """
    try:
        return work(given), None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None, _first_line(error)


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or ["out of memory"])[0].rstrip(".")
