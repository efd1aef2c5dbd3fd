"""A part of everything: some layers, and of these the experts, the routers, or both.

The paper's baselines train the experts and routers of all layers (Table 1), its RMU the experts of
layers 5 to 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from seuf.errors import InputError
from seuf.moe.architectures import decoder, decoder_layer, moe_layers

ROUTERS = ("routers", "experts_and_routers")
EXPERTS = ("experts", "experts_and_routers")


def part_of(
    model: nn.Module, only: str | None, layers: Sequence[int] | None
) -> tuple[dict[str, nn.Parameter], int]:
    """Return a part of a model's parameters, by name, and the first decoder layer among them.

    Args:
        model: A causal language model of a known MoE architecture.
        only: `experts`, `routers`, `experts_and_routers`, or None for all.
        layers: Indices of decoder layers, or None for all.

    Raises:
        InputError: If there is no such layer, or none of them has experts.
    """
    if only is None and layers is None:
        return dict(model.named_parameters()), 0
    chosen = list(range(len(decoder(model).layers))) if layers is None else list(layers)
    modules = _layers(model, chosen) if only is None else _pieces(model, only, chosen)
    wanted = {id(parameter) for module in modules for parameter in module.parameters()}
    if not wanted:
        raise InputError(f"Layers {chosen} have no experts: MoE layers are {_moe(model)}.")
    found = {name: p for name, p in model.named_parameters() if id(p) in wanted}
    first = min(chosen) if only is None else min(set(chosen).intersection(_moe(model)))
    return found, first


def _layers(model: nn.Module, layers: Sequence[int]) -> list[nn.Module]:
    return [decoder_layer(model, index) for index in layers]


def _pieces(model: nn.Module, only: str, layers: Sequence[int]) -> Iterator[nn.Module]:
    _layers(model, layers)  # refuses those that are not there
    for layer in moe_layers(model):
        if layer.index in layers and only in ROUTERS:
            yield layer.router
        if layer.index in layers and only in EXPERTS:
            yield layer.experts


def _moe(model: nn.Module) -> list[int]:
    return [layer.index for layer in moe_layers(model)]
