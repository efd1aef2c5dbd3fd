"""Keep hidden states of many samples: in memory, or in a file where they would not fit."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import psutil
import torch
from torch import Tensor

from seuf.errors import InputError

GB = 1e9
log = logging.getLogger(__name__)


class HiddenStates:
    """The hidden states of some samples, (T_i, d) each, one after the other.

    Args:
        lengths: Number of tokens of each sample, T_i, by its position among others.
        size: d.
        dtype: What the states are kept in.
        device: Where they are needed; memory is pinned for a GPU, which fetches them by itself.
        limit: Bytes of memory they may take, by default half of what is free; beyond that they go
            to a file that is gone when the process ends, in the folder for temporary files.

    Raises:
        InputError: If the disk has no room for the file.
    """

    def __init__(
        self,
        lengths: Mapping[int, int],
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        limit: int | None = None,
    ) -> None:
        ends = list(accumulate(lengths.values()))
        self.device, self.tokens = device, sum(lengths.values())
        self.rows_of = {
            p: slice(end - lengths[p], end) for p, end in zip(lengths, ends, strict=True)
        }
        self.bytes = self.tokens * size * dtype.itemsize
        self.in_memory = self.bytes <= (half_of_free_memory() if limit is None else limit)
        where = "memory" if self.in_memory else f"a file in {tempfile.gettempdir()}"
        log.info("%d samples' hidden states: %.3g GB in %s", len(lengths), self.bytes / GB, where)
        self.rows = self._memory(size, dtype) if self.in_memory else self._file(size, dtype)

    def put(self, positions: Sequence[int], hidden: Tensor) -> None:
        """Keep the states (B, T, d) of a right-padded batch of samples."""
        for position, rows in zip(positions, hidden, strict=True):
            kept = self.sample(position)
            kept.copy_(rows[: len(kept)])

    def sample(self, position: int) -> Tensor:
        """Return a sample's states (T_i, d) where they are kept."""
        return self.rows[self.rows_of[position]]

    def batch(self, positions: Sequence[int], width: int) -> Tensor:
        """Return samples' states on the device, padded on the right with zeros, (B, width, d)."""
        shape = len(positions), width, self.rows.shape[1]
        states = torch.zeros(shape, dtype=self.rows.dtype, device=self.device)
        for row, position in enumerate(positions):
            kept = self.sample(position)
            states[row, : len(kept)].copy_(kept, non_blocking=True)
        return states

    def _memory(self, size: int, dtype: torch.dtype) -> Tensor:
        pinned = self.device.type == "cuda"
        return torch.empty(self.tokens, size, dtype=dtype, pin_memory=pinned)

    def _file(self, size: int, dtype: torch.dtype) -> Tensor:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if self.bytes > free:
            raise InputError(
                f"The hidden states take {self.bytes / GB:.3g} GB, more than memory has and than "
                f"the {free / GB:.3g} GB in {tempfile.gettempdir()}: set TMPDIR to a larger disk."
            )
        with tempfile.TemporaryDirectory(prefix="seuf-") as folder:
            path = str(Path(folder, "states"))
            count = self.tokens * size
            return torch.from_file(path, shared=True, size=count, dtype=dtype).view(-1, size)


def half_of_free_memory() -> int:
    """Return half of the bytes of CPU memory that no process needs."""
    return psutil.virtual_memory().available // 2
