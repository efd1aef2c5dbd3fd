"""Translate between parameter paths in a loaded model and tensor keys in its checkpoint.

A *path* names a parameter of the loaded model, or a row of it: `layers.1.mlp.experts.down_proj[3]`
is expert 3 of a fused tensor. A *key* is a tensor's name in the checkpoint, where most
architectures keep each expert apart; `key[3]` is a row of one that is fused there too.
Transformers has the conversion of each architecture: it is called, never imitated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from seuf.moe.architectures import decoder, moe_layers

ROW = re.compile(r"(?P<name>.+)\[(?P<row>\d+)\]")
FIRST_EXPERT = re.compile(r"\bexperts\.0\.")
_keys_by_path: WeakKeyDictionary[nn.Module, dict[str, list[str]]] = WeakKeyDictionary()


def row_path(name: str, row: int) -> str:
    """Return the path of one row of a parameter."""
    return f"{name}[{row}]"


def split_row(path: str) -> tuple[str, int | None]:
    """Return the name in a path (or key), and its row if it has one."""
    match = ROW.fullmatch(path)
    return (match["name"], int(match["row"])) if match else (path, None)


def tensor_at(model: nn.Module, path: str) -> Tensor:
    """Return the model's own memory at a path: what is written there is in the model."""
    name, row = split_row(path)
    whole = model.get_parameter(name).detach()
    return whole if row is None else whole[row]


def weight_names(model: nn.Module) -> list[str]:
    """Return the names in the model of all that a checkpoint of it holds; tied weights once."""
    names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), name)
    return list(names.values())


def rows_of_experts(model: nn.Module) -> dict[str, int]:
    """Return the names of the fused expert tensors, and how many rows each has: its experts."""
    modules = {id(layer.experts): layer.num_experts for layer in moe_layers(model)}
    return {
        f"{name}.{own}": modules[id(module)]
        for name, module in model.named_modules()
        if id(module) in modules
        for own, tensor in module.named_parameters(recurse=False)
        if tensor.shape[0] == modules[id(module)]
    }


def to_checkpoint(model: Any, path: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return, by key, what a checkpoint holds of a tensor at a path."""
    name, row = split_row(path)
    if row is None:
        return revert_weight_conversion(model, {name: tensor})
    # A row is converted as the whole of a stack of one expert, whose number is then put right.
    converted = {}
    for key, value in revert_weight_conversion(model, {name: tensor[None]}).items():
        if value.dim() > tensor.dim():  # still a stack: fused in the checkpoint too
            converted[row_path(key, row)] = value[0]
        else:
            converted[FIRST_EXPERT.sub(f"experts.{row}.", key)] = value
    return converted


def empty_checkpoint(model: Any) -> dict[str, Tensor]:
    """Return, by key, what a checkpoint of the model holds: types and shapes without values."""
    tensors = model.state_dict()
    empty = {name: _empty(tensors[name]) for name in weight_names(model)}
    parts = (to_checkpoint(model, name, tensor) for name, tensor in empty.items())
    return {key: tensor for part in parts for key, tensor in part.items()}


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def paths_of_keys(model: nn.Module, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the paths whose tensors hold the given keys, each with all keys that it holds.

    Raises:
        KeyError: If the model holds no such key.
    """
    if model not in _keys_by_path:
        rows, tensors, table = rows_of_experts(model), model.state_dict(), {}
        for name in weight_names(model):
            empty = _empty(tensors[name])
            parts = {row_path(name, row): empty[row] for row in range(rows.get(name, 0))}
            for path, part in (parts or {name: empty}).items():
                table[path] = list(to_checkpoint(model, path, part))
        _keys_by_path[model] = table
    table, keys = _keys_by_path[model], set(keys)
    if missing := keys.difference(*table.values()):
        raise KeyError(f"the model holds no {', '.join(sorted(missing))}")
    return {path: held for path, held in table.items() if keys.intersection(held)}


def write(model: nn.Module, path: str, tensors: Mapping[str, Tensor]) -> None:
    """Write checkpoint tensors, by key, into the parameter at the path that holds them.

    Which element goes where is read off the conversion itself, which is given the elements'
    positions for values.
    """
    memory = tensor_at(model, path)
    positions = torch.arange(memory.numel()).view(memory.shape)
    flat = memory.view(-1)
    with torch.no_grad():
        for key, index in to_checkpoint(model, path, positions).items():
            if key in tensors:
                values = tensors[key].to(flat).flatten()
                flat.index_copy_(0, index.flatten().to(flat.device), values)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one shape and type are equal bit by bit."""
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (one, other)))


def layer_of(model: nn.Module, path: str) -> int:
    """Return the first decoder layer that a change at a path can reach."""
    layers = decoder(model).layers
    prefix = next(name for name, module in model.named_modules() if module is layers)
    inside = re.match(re.escape(prefix) + r"\.(\d+)\.", path)
    return int(inside[1]) if inside else 0
