"""Spare transformers a question whose answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from transformers import masking_utils


@contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Tell transformers that no row of a batch without a mask holds several sequences.

    It would look at the positions to find out, in every pass, and a GPU would have to wait for the
    answer; while a CUDA graph is recorded it would take a slower attention, to be safe.
    """
    with ExitStack() as stack:
        stack.enter_context(
            patch.object(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
        )
        stack.enter_context(patch.object(masking_utils, "is_tracing", lambda *tensors: False))
        yield
