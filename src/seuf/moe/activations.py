"""Keep hidden states of many samples: in memory, or in a file where they would not fit.

Let many passes over the same batches share what lies below a layer.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, decoder_layer
from seuf.moe.forward import Reached, frozen_prefix, hidden_of, replaced_forward

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
        log.debug("%d samples' hidden states: %.3g GB in %s", len(lengths), self.bytes / GB, where)
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


class SharedPrefix:
    """Inside the context, layers below `layer_index` run once for each batch.

    For a model that is scored again and again while only layers from `layer_index` on change:
    results are the same to the bit. Whoever calls the model need not know. What enters the layer
    is kept in CPU memory, as much as `limit` bytes; then batches that are new are computed each
    time. Generation, which keeps a cache of its own, is left alone.

    Args:
        model: A causal language model.
        layer_index: First decoder layer that may change. With 0 there is nothing to share.
        limit: Bytes to keep, by default half of the memory that is free.

    Raises:
        InputError: If the model has no such layer.
    """

    def __init__(self, model: nn.Module, layer_index: int, limit: int | None = None) -> None:
        self.model, self.layer_index = model, layer_index
        self.layer = decoder_layer(model, layer_index)
        self.room = half_of_free_memory() if limit is None else limit
        self._kept: dict[bytes, Tensor] = {}

    def __enter__(self) -> SharedPrefix:
        body = decoder(self.model)
        forward = _Sharing(self, body.forward) if self.layer_index else body.forward
        self._stack = ExitStack()
        self._stack.enter_context(replaced_forward({body: forward}))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def known(self, key: bytes) -> Tensor | None:
        """Return what enters the layer for a batch that has passed before."""
        return self._kept.get(key)

    def keep(self, key: bytes, hidden: Tensor) -> None:
        """Keep what enters the layer, if there is room."""
        size = hidden.numel() * hidden.element_size()
        if size <= self.room:
            self._kept[key], self.room = hidden.detach().cpu(), self.room - size


class _Sharing:
    """A decoder's forward that asks a `SharedPrefix` first."""

    def __init__(self, shared: SharedPrefix, forward: Callable[..., Any]) -> None:
        self.shared, self.forward = shared, forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = _key(args, kwargs)
        if key is None:
            return self.forward(*args, **kwargs)
        if (hidden := self.shared.known(key)) is not None:
            device = (args[0] if args else kwargs["input_ids"]).device
            with frozen_prefix(self.shared.model, self.shared.layer_index, hidden.to(device)):
                return self.forward(*args, **kwargs)
        with _noted(self.shared.layer) as noted:
            try:
                return self.forward(*args, **kwargs)
            finally:  # the pass may end above the layer
                if hasattr(noted, "hidden"):
                    self.shared.keep(key, noted.hidden)


@contextmanager
def _noted(layer: nn.Module) -> Iterator[Reached]:
    """Note what enters a layer inside the context."""
    noted = Reached()

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        noted.hidden = hidden_of(args, kwargs)

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield noted
    finally:
        handle.remove()


def _key(args: tuple, kwargs: dict[str, Any]) -> bytes | None:
    """Return what tells a batch from others; None if the pass depends on more than the batch."""
    ids = args[0] if args else kwargs.get("input_ids")
    others = [kwargs.get(name) for name in ("past_key_values", "inputs_embeds", "position_ids")]
    if (
        ids is None
        or len(args) > 1
        or torch.is_grad_enabled()
        or any(o is not None for o in others)
    ):
        return None
    digest = hashlib.blake2b(str(tuple(ids.shape)).encode())
    for tensor in (ids, kwargs.get("attention_mask")):
        if tensor is not None:
            digest.update(tensor.cpu().contiguous().numpy())
    return digest.digest()
