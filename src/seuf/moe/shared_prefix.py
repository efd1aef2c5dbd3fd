"""Let many passes over the same batches share what lies below a layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seuf.moe.architectures import decoder, decoder_layer
from seuf.moe.prefix import Reached, frozen_prefix, hidden_of, patched_forward
from seuf.moe.states import half_of_free_memory


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
        self._stack.enter_context(patched_forward({body: forward}))
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
