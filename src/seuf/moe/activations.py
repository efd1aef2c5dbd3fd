"""Keep hidden states between passes: of single samples, and of whole batches.

`HiddenStates` keeps those of many samples in memory, or in a file where they would not fit.
`SharedPrefix` lets many passes over the same batches share what lies below a layer.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, decoder_layer
from seuf.moe.forward import frozen_prefix, hidden_of, replaced_forward

GB = 1e9
log = logging.getLogger(__name__)


class HiddenStates:
    """The hidden states of some samples, (T_i, d) each, one after the other.

    Args:
        lengths: Number of tokens of each sample, T_i, by its position among others.
        size: d.
        dtype: What the states are kept in.
        device: Where the model runs. A GPU keeps them itself if they take an eighth of its free
            memory at most; else memory is pinned, and it fetches them from there. With a device map
            a layer may be elsewhere: batches go where the states came from.
        limit: Bytes of CPU memory they may take, by default half of what is free; beyond that they
            go to a file that is gone when the process ends, in the folder for temporary files.
        share: Number of such objects that will share this memory.

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
        share: int = 1,
    ) -> None:
        ends = list(accumulate(lengths.values()))
        self.device, self.tokens = device, sum(lengths.values())
        self.rows_of = {
            p: slice(end - lengths[p], end) for p, end in zip(lengths, ends, strict=True)
        }
        self.bytes = self.tokens * size * dtype.itemsize
        self.stays = 0 < self.bytes <= eighth_of_free_memory(device) // share
        room = half_of_free_memory() // share if limit is None else limit
        self.in_memory = self.stays or self.bytes <= room
        where = (
            str(device)
            if self.stays
            else "memory"
            if self.in_memory
            else f"a file in {tempfile.gettempdir()}"
        )
        log.debug("%d samples' hidden states: %.3g GB in %s", len(lengths), self.bytes / GB, where)
        if self.stays:  # with a row of zeros at the end, for padding
            self.rows = torch.zeros(self.tokens + 1, size, dtype=dtype, device=device)
        elif self.in_memory:
            pinned = device.type == "cuda"
            self.rows = torch.empty(self.tokens, size, dtype=dtype, pin_memory=pinned)
        else:
            self.rows = self._file(size, dtype)

    def put(self, positions: Sequence[int], hidden: Tensor) -> None:
        """Keep the states (B, T, d) of a right-padded batch of samples."""
        self.device = hidden.device
        if self.stays:
            self.rows[self._row_numbers(positions, hidden.shape[1])] = hidden.to(self.rows)
            self.rows[self.tokens] = 0
            return
        for position, rows in zip(positions, hidden, strict=True):
            kept = self.sample(position)
            kept.copy_(rows[: len(kept)])

    def sample(self, position: int) -> Tensor:
        """Return a sample's states (T_i, d) where they are kept."""
        return self.rows[self.rows_of[position]]

    def batch(self, positions: Sequence[int], width: int) -> Tensor:
        """Return samples' states on their device, padded on the right with zeros, (B, width, d)."""
        if self.stays:
            return self.rows[self._row_numbers(positions, width)].to(self.device)
        shape = len(positions), width, self.rows.shape[1]
        states = torch.zeros(shape, dtype=self.rows.dtype, device=self.device)
        for row, position in enumerate(positions):
            kept = self.sample(position)
            states[row, : len(kept)].copy_(kept, non_blocking=True)
        return states

    def _row_numbers(self, positions: Sequence[int], width: int) -> Tensor:
        """Return the row that holds each token of samples, the last for padding, (B, width)."""
        starts = torch.tensor([self.rows_of[position].start for position in positions])
        stops = torch.tensor([self.rows_of[position].stop for position in positions])
        numbers = starts[:, None] + torch.arange(width)
        numbers[numbers >= stops[:, None]] = self.tokens
        return numbers.to(self.rows.device)

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
    """Return half of the free CPU memory, in bytes."""
    return psutil.virtual_memory().available // 2


def eighth_of_free_memory(device: torch.device) -> int:
    """Return an eighth of a GPU's free memory in bytes, as training needs the rest; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + reserved) // 8


class SharedPrefix:
    """Inside the context, layers below `layer_index` run once for each batch.

    For a model that is scored again and again while only layers from `layer_index` on change:
    results are the same to the bit, and callers use the model as usual. The states that enter the
    layer stay on its GPU, up to an eighth of its free memory, and then in CPU memory, up to `limit`
    bytes; further batches are computed each time. A batch is recognised by its input tensors, and
    by their bytes if those are new, which waits for the GPU.
    Training passes, and generation, which has a cache of its own, are left alone.

    Args:
        model: A causal language model.
        layer_index: First decoder layer that may change. With 0 there is nothing to share.
        limit: Bytes to keep in CPU memory, by default half of what is free; where it is given none
            are kept on a GPU.
        others: Lower layers that will take the place of `layer_index` later, when those that change
            then are theirs: what enters them is kept from the same passes.

    Raises:
        InputError: If the model has no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layer_index: int,
        limit: int | None = None,
        others: Iterable[int] = (),
    ) -> None:
        self.model, self.layer_index = model, layer_index
        self.layers = {i: decoder_layer(model, i) for i in sorted({layer_index, *others})}
        self.free_bytes = half_of_free_memory() if limit is None else limit
        self._free_on: dict[torch.device, int] | None = {} if limit is None else None
        self._digests = WeakTensorKeyDictionary()  # of tensors seen: version and digest
        # by layer and batch, and where it came from
        self._kept: dict[tuple[int, bytes], tuple[Tensor, torch.device]] = {}

    def __enter__(self) -> SharedPrefix:
        body = decoder(self.model)
        forward = partial(self._pass, body.forward) if self.layer_index else body.forward
        self._stack = ExitStack()
        self._stack.enter_context(replaced_forward({body: forward}))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _pass(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Pass a batch: from the layer on if it has passed before, else whole, and keep."""
        key = self._key(args, kwargs)
        if key is None:
            return forward(*args, **kwargs)
        if (self.layer_index, key) in self._kept:
            hidden, device = self._kept[self.layer_index, key]
            with frozen_prefix(self.model, self.layer_index, hidden.to(device)):
                return forward(*args, **kwargs)

        def keep(index: int, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = hidden_of(args, kwargs).detach()
            if (index, key) in self._kept:
                return
            if self._reserve(hidden):
                self._kept[index, key] = hidden, hidden.device
            elif hidden.nbytes <= self.free_bytes:
                self._kept[index, key] = hidden.cpu(), hidden.device
                self.free_bytes -= hidden.nbytes

        with ExitStack() as stack:
            for index, layer in self.layers.items():
                if 0 < index <= self.layer_index:  # what enters a higher one may have changed
                    handle = layer.register_forward_pre_hook(
                        lambda module, args, kwargs, index=index: keep(index, args, kwargs),
                        with_kwargs=True,
                    )
                    stack.callback(handle.remove)
            return forward(*args, **kwargs)

    def _reserve(self, hidden: Tensor) -> bool:
        """Return whether a GPU has memory to keep states for good, which is then reserved."""
        if self._free_on is None:
            return False
        free = self._free_on.setdefault(hidden.device, eighth_of_free_memory(hidden.device))
        if hidden.nbytes <= free:
            self._free_on[hidden.device] = free - hidden.nbytes
        return hidden.nbytes <= free

    def _key(self, args: tuple, kwargs: dict[str, Any]) -> bytes | None:
        """Return what tells a batch from others; None if the pass depends on more than that."""
        ids = args[0] if args else kwargs.get("input_ids")
        others = [kwargs.get(name) for name in ("past_key_values", "inputs_embeds")]
        if ids is None or len(args) > 1 or torch.is_grad_enabled():
            return None
        if any(other is not None for other in others):
            return None
        given = {
            "ids": ids,
            **{name: kwargs.get(name) for name in ("attention_mask", "position_ids")},
        }
        return b"".join(
            name.encode() + self._digest(tensor)
            for name, tensor in given.items()
            if tensor is not None
        )

    def _digest(self, tensor: Tensor) -> bytes:
        now = None if tensor.is_inference() else tensor._version
        before, digest = self._digests.get(tensor, (None, b""))
        if now is None or now != before:
            made = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            made.update(tensor.cpu().contiguous().numpy().data)
            digest = made.digest()
            self._digests[tensor] = now, digest
        return digest
