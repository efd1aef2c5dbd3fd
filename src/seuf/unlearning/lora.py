"""The scope of LoRA: adapters on all linear layers and fused experts of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from seuf.moe.adapters import Adapter, adapted, merged, parameters_of
from seuf.moe.places import same_bits
from seuf.unlearning.scopes import Scope


class LoraScope(Scope):
    """The adapters in training, and what the model would be with them merged.

    In training and at every look the adapters stand beside the weights; what has changed, and is
    stored, is the weights with them merged: in a bfloat16 model rounded once more, so that small
    changes of a weight are lost there.

    Args:
        model: The model, adapted.
        adapters: Its adapters.
    """

    def __init__(self, model: nn.Module, adapters: list[Adapter]) -> None:
        super().__init__(model, parameters_of(adapters))
        self.adapters = adapters

    def changed(self, original: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the adapters change when merged, by place, in CPU memory."""
        parts = merged(self.adapters)
        return {one.place: one.tensor.cpu() for one in parts if not same_bits(one.tensor, one.base)}

    def trained_share(self) -> float:
        """Return how many parameters the adapters have, as a share of the model's own."""
        own = sum(tensor.numel() for tensor in self.trained.values())
        return own / (sum(parameter.numel() for parameter in self.model.parameters()) - own)


@contextmanager
def lora(model: nn.Module, rank: int, seed: int) -> Iterator[LoraScope]:
    """Give the scope of LoRA inside the context; after it the model has no adapters.

    Raises:
        InputError: If a part of the model is offloaded, or peft cannot adapt it.
    """
    with adapted(model, rank, seed) as adapters:
        yield LoraScope(model, adapters)
