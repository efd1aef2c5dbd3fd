"""Put tensors into a model by their checkpoint keys, and take them out again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from seuf.moe.places import layer_of, places_of, storage, write
from seuf.moe.residence import resident


class Applied:
    """Tensors in a model, and what was there before; layers that hold them stay on their device.

    Args:
        model: Gets the tensors.
        tensors: By key, see `seuf.moe.places`.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self._stack = ExitStack()
        places = places_of(model, tensors)
        self._stack.enter_context(resident(model, {layer_of(model, place) for place in places}))
        self._before = {place: storage(model, place).clone() for place in places}
        for place in places:
            write(model, place, tensors)

    @torch.no_grad()
    def undo(self, model: nn.Module) -> None:
        """Give the model back what it had, to the bit."""
        for place, before in self._before.items():
            storage(model, place).copy_(before)
        self._stack.close()
