"""Where a tensor of a checkpoint lies in a model, and back.

A *place* is a parameter of the loaded model, or one row of it: `layers.1.mlp.experts.down_proj[3]`
is expert 3 of a fused tensor. A *key* is a tensor's name in the checkpoint, where most
architectures keep each expert apart; `key[3]` is a row of one that is fused there too. Transformers
knows how to get from the one to the other: it is asked, for each architecture, never imitated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from seuf.moe.architectures import decoder, moe_layers

ROW = re.compile(r"(?P<name>.+)\[(?P<row>\d+)\]")
_tables: WeakKeyDictionary[nn.Module, dict[str, list[str]]] = WeakKeyDictionary()
_FIRST_EXPERT = re.compile(r"\bexperts\.0\.")


def row_path(name: str, row: int) -> str:
    """Return the place that is one row of a parameter."""
    return f"{name}[{row}]"


def split_row(place: str) -> tuple[str, int | None]:
    """Return a place's (or key's) name, and its row if it is one."""
    match = ROW.fullmatch(place)
    return (match["name"], int(match["row"])) if match else (place, None)


def tensor_at(model: nn.Module, place: str) -> Tensor:
    """Return the model's own memory at a place: what is written there is in the model."""
    name, row = split_row(place)
    whole = model.get_parameter(name).detach()
    return whole if row is None else whole[row]


def weight_names(model: nn.Module) -> list[str]:
    """Return the names in the model of all that a checkpoint of it holds; tied weights once."""
    once: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        once.setdefault(id(tensor), name)
    return list(once.values())


def to_checkpoint(model: Any, place: str, tensor: Tensor) -> dict[str, Tensor]:
    """Return what the checkpoint holds of a tensor at a place, by key."""
    name, row = split_row(place)
    if row is None:
        return revert_weight_conversion(model, {name: tensor})
    # A row is converted as the whole of a stack of one expert, whose number is then put right.
    found = revert_weight_conversion(model, {name: tensor[None]})
    return dict(_of_row(key, value, row, tensor.dim()) for key, value in found.items())


def paths_of_keys(model: nn.Module, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the places that hold the given keys, each with all keys that it holds.

    Raises:
        KeyError: If the model holds no such key.
    """
    wanted, held = set(keys), _keys_by_place(model)
    if missing := wanted.difference(*held.values()):
        raise KeyError(f"the model holds no {', '.join(sorted(missing))}")
    return {place: names for place, names in held.items() if wanted.intersection(names)}


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


def write(model: nn.Module, place: str, tensors: Mapping[str, Tensor]) -> None:
    """Write checkpoint tensors, by key, to the place that holds them.

    Which element goes where is read off the conversion itself: it is given positions for values.
    """
    memory = tensor_at(model, place)
    positions = torch.arange(memory.numel()).view(memory.shape)
    flat = memory.view(-1)
    with torch.no_grad():
        for key, index in to_checkpoint(model, place, positions).items():
            if key in tensors:
                values = tensors[key].to(flat).flatten()
                flat.index_copy_(0, index.flatten().to(flat.device), values)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Tell if two tensors of one shape and type are equal bit by bit."""
    return torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (one, other)))


def layer_of(model: nn.Module, place: str) -> int:
    """Return the first decoder layer that a change at a place can reach."""
    layers = decoder(model).layers
    prefix = next(name for name, module in model.named_modules() if module is layers)
    inside = re.match(re.escape(prefix) + r"\.(\d+)\.", place)
    return int(inside[1]) if inside else 0


def _keys_by_place(model: nn.Module) -> dict[str, list[str]]:
    if model not in _tables:
        _tables[model] = {
            place: list(to_checkpoint(model, place, empty)) for place, empty in _places(model)
        }
    return _tables[model]


def _places(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every place, experts apart, with a tensor of its shape that holds nothing."""
    rows, tensors = rows_of_experts(model), model.state_dict()
    for name in weight_names(model):
        empty = torch.empty_like(tensors[name], device="meta")
        for row in range(rows.get(name, 0)):
            yield row_path(name, row), empty[row]
        if name not in rows:
            yield name, empty


def _of_row(key: str, value: Tensor, row: int, dims: int) -> tuple[str, Tensor]:
    if value.dim() > dims:  # still a stack: fused in the checkpoint too
        return row_path(key, row), value[0]
    return _FIRST_EXPERT.sub(f"experts.{row}.", key), value
