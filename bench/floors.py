"""The least time that a piece of work can take: FLOPs and bytes over the machine's best.

A floor counts matrix products and each weight that must be read once; what is kept between them
is taken to cost nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from bench.measure import Machine
from seuf.moe.architectures import MoELayer, decoder, moe_layers


class Work(NamedTuple):
    """FLOPs and bytes of a piece of work."""

    flops: float
    bytes: float

    def __add__(self, other: tuple) -> Work:
        return Work(*(one + two for one, two in zip(self, other, strict=True)))

    def seconds(self, machine: Machine) -> float:
        """Return its floor."""
        return max(self.flops / machine.flops, self.bytes / machine.bandwidth)


def layers(model: Any, first: int, last: int, tokens: int) -> Work:
    """Return one pass of tokens through decoder layers `first` to `last` - 1."""
    moe = {layer.index: layer for layer in moe_layers(model)}
    total = Work(0, 0)
    for index, layer in enumerate(decoder(model).layers):
        if first <= index < last:
            active = _parameters(layer) - _idle(moe.get(index))
            total += Work(2 * active * tokens, 2 * _parameters(layer))
    return total


def head(model: Any, tokens: int) -> Work:
    """Return one pass of tokens through the output head."""
    weights = _parameters(model.get_output_embeddings())
    return Work(2 * weights * tokens, 2 * weights)


def expert(layer: MoELayer, tokens: int) -> Work:
    """Return one expert's pass over the tokens that it may expect."""
    weights = _parameters(layer.experts) / layer.num_experts
    share = layer.top_k / layer.num_experts
    return Work(2 * weights * tokens * share, 2 * weights)


def _idle(layer: MoELayer | None) -> float:
    if layer is None:
        return 0
    return _parameters(layer.experts) * (1 - layer.top_k / layer.num_experts)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
