"""The tensors that a method may change, by checkpoint key; an audit compares deltas with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, moe_layers
from seuf.moe.names import row_path, rows_of_experts, split_row, to_checkpoint
from seuf.unlearning.scopes import is_output, part_of
from seuf.unlearning.settings import Experts, Method


def allowed_changes(model: Any, method: Method, experts: Experts) -> set[str]:
    """Return the checkpoint keys that a method may change.

    For one expert of a tensor fused in the checkpoint, and for one row of a router of which only
    the experts' rows are trained, the key is `key[e]`.

    Args:
        model: The base model, with or without weights.
        method: The method.
        experts: (layer, expert) pairs that the method was given.

    Raises:
        InputError: If the model has no such expert, layer or part.
    """
    if method.scope == "nothing":
        return set()
    if method.scope not in ("experts", "deletion"):
        parameters, _ = part_of(model, method.only, method.layers)
        return _keys(model, parameters)
    layers = {layer.index: layer for layer in moe_layers(model)}
    keys: set[str] = set()
    for index, expert in experts:
        if index not in layers or not 0 <= expert < layers[index].num_experts:
            raise InputError(f"The model has no expert {expert} in layer {index}.")
        paths = _expert_paths(model, layers[index], expert)
        if method.scope == "deletion":
            keys |= _keys(model, filter(is_output, paths))
            continue
        keys |= _keys(model, paths)
        if method.router != "none":
            inside = _parameters_inside(model, layers[index].router)
            # a bias of another length only decides which experts are chosen, and is not trained
            names = [n for n, p in inside.items() if len(p) == layers[index].num_experts]
            rows = [row_path(name, expert) for name in names]
            keys |= _keys(model, rows if method.router == "row" else names)
    return keys


def owner_of(model: Any, key: str) -> str:
    """Return in words what a key belongs to: an expert, a router, a layer, or no layer."""
    for layer in moe_layers(model):
        for expert in range(layer.num_experts):
            if key in _keys(model, _expert_paths(model, layer, expert)):
                return f"expert {expert} of layer {layer.index}"
        if split_row(key)[0] in _keys(model, _parameters_inside(model, layer.router)):
            return f"router of layer {layer.index}"
    inside = re.search(r"\blayers\.(\d+)\.", key)
    return f"layer {inside[1]}, no expert" if inside else "no layer"


def _expert_paths(model: Any, layer: MoELayer, expert: int) -> list[str]:
    rows = rows_of_experts(model)
    return [row_path(n, expert) for n in _parameters_inside(model, layer.experts) if n in rows]


def _parameters_inside(model: Any, module: Any) -> dict[str, Tensor]:
    """Return the parameters of a module, by their names in the model."""
    own = {id(parameter) for parameter in module.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in own}


def _keys(model: Any, paths: Iterable[str]) -> set[str]:
    """Return the checkpoint keys at parameter paths; fused expert tensors have one an expert."""
    rows, keys = rows_of_experts(model), set[str]()
    for path in paths:
        for part in [row_path(path, e) for e in range(rows.get(path, 0))] or [path]:
            name, row = split_row(part)
            whole = model.get_parameter(name).detach()
            keys |= to_checkpoint(model, part, whole if row is None else whole[row]).keys()
    return keys
