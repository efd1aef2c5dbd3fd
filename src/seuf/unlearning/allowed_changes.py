"""The tensors that a method may change: its promise, told without the code that trains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, moe_layers
from seuf.moe.names import row_path, rows_of_experts, split_row, to_checkpoint
from seuf.unlearning.scopes import part_of
from seuf.unlearning.settings import Method

Experts = list[tuple[int, int]]
_LAYER = re.compile(r"\blayers\.(\d+)\.")


def promised_keys(model: Any, method: Method, experts: Experts) -> set[str]:
    """Return the keys of the checkpoint that a method may change.

    Of tensors that are fused in the checkpoint, and of routers of which only the experts' rows are
    trained, these are `key[e]`.

    Args:
        model: The base model; without weights will do.
        method: The method.
        experts: (layer, expert) pairs that it was given.

    Raises:
        InputError: If the model has no such expert, layer or part.
    """
    if method.scope == "nothing":
        return set()
    if method.scope == "experts":
        return _of_experts(model, method.router, experts)
    parameters, _ = part_of(model, method.only, method.layers)
    return _keys(model, parameters)


def owner_of(model: Any, key: str) -> str:
    """Return in words what a key belongs to: an expert, a router, a layer, or none of these."""
    for layer in moe_layers(model):
        for expert in range(layer.num_experts):
            if key in _keys(model, _of_expert(model, layer, expert)):
                return f"expert {expert} of layer {layer.index}"
        if split_row(key)[0] in _keys(model, _inside(model, layer.router)):
            return f"router of layer {layer.index}"
    inside = _LAYER.search(key)
    return f"layer {inside[1]}, no expert" if inside else "no layer"


def _of_experts(model: Any, router: str, experts: Experts) -> set[str]:
    layers = {layer.index: layer for layer in moe_layers(model)}
    keys: set[str] = set()
    for index, expert in experts:
        if index not in layers or not 0 <= expert < layers[index].num_experts:
            raise InputError(f"The model has no expert {expert} in layer {index}.")
        keys |= _keys(model, _of_expert(model, layers[index], expert))
        if router != "none":
            rows = [expert] if router == "row" else None
            keys |= _keys(model, _of_router(model, layers[index], rows))
    return keys


def _of_expert(model: Any, layer: MoELayer, expert: int) -> list[str]:
    inside, rows = _inside(model, layer.experts), rows_of_experts(model)
    return [row_path(name, expert) for name in inside if name in rows]


def _of_router(model: Any, layer: MoELayer, rows: list[int] | None) -> list[str]:
    """Return the places of what scores the experts; a bias that steers the choice alone is not."""
    names = [n for n, p in _inside(model, layer.router).items() if len(p) == layer.num_experts]
    return names if rows is None else [row_path(name, row) for name in names for row in rows]


def _inside(model: Any, module: Any) -> dict[str, Tensor]:
    """Return the parameters of a module, by their names in the model."""
    own = {id(parameter) for parameter in module.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in own}


def _keys(model: Any, places: Iterable[str]) -> set[str]:
    """Return the keys at places, of fused expert tensors each expert's."""
    rows, found = rows_of_experts(model), set[str]()
    for place in places:
        apart = [row_path(place, e) for e in range(rows.get(place, 0))] or [place]
        for one in apart:
            name, row = split_row(one)
            whole = model.get_parameter(name).detach()
            found |= to_checkpoint(model, one, whole if row is None else whole[row]).keys()
    return found
