"""A checkpoint with a delta laid over it, as if it had been exported; nothing is written."""

from __future__ import annotations

import torch
from torch import Tensor

from seuf.errors import InputError
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.deltas import Delta
from seuf.moe.digests import DEFAULT
from seuf.moe.places import place_of_row, split_row


class Overlaid:
    """A checkpoint with the tensors of a delta in place of its own; nothing is written.

    Args:
        base: The checkpoint.
        delta: Its tensors are looked at, not what it says of its base.

    Raises:
        InputError: If the checkpoint has no such tensors, or not of these shapes and types.
    """

    def __init__(self, base: Checkpoint, delta: Delta) -> None:
        self.base, self.dtypes, self.folder = base, checked(delta.dtypes), base.folder
        self.files = base.files
        self.touched: dict[str, dict[int | None, Tensor]] = {}
        for key, value in delta.tensors.items():
            name, row = split_row(key)
            _check_fits(base, key, value, type_of(name, delta.dtypes))
            self.touched.setdefault(name, {})[row] = value
        for name, rows in self.touched.items():
            if None in rows and len(rows) > 1:
                raise InputError(f"The delta holds {name} as a whole, and rows of it beside that.")

    def __getitem__(self, key: str) -> Tensor:
        return self.over(key, self.base[key])

    def over(self, key: str, tensor: Tensor) -> Tensor:
        """Return what becomes of a tensor of the base; itself if the delta does not touch it."""
        rows = self.touched.get(key)
        if rows is None:
            return tensor
        if None in rows:
            return rows[None]
        new = tensor.to(type_of(key, self.dtypes), copy=True)
        for row, value in rows.items():
            new[row] = value
        return new


def checked(dtypes: dict[str, str]) -> dict[str, str]:
    """Return types by key.

    Raises:
        InputError: If one is no type of torch, or there is no default.
    """
    if not isinstance(dtypes, dict):  # a file has said so
        raise InputError(f"{dtypes!r} are no types that a model could be loaded in.")
    for key, name in {DEFAULT: "", **dtypes}.items():
        if not isinstance(getattr(torch, str(name), None), torch.dtype):
            raise InputError(f"{name!r} is no type that {key} could be loaded in.")
    return dtypes


def type_of(key: str, dtypes: dict[str, str]) -> torch.dtype:
    """Return the type in which a tensor is loaded."""
    return getattr(torch, dtypes.get(key, dtypes[DEFAULT]))


def _check_fits(base: Checkpoint, key: str, value: Tensor, dtype: torch.dtype) -> None:
    name, row = split_row(key)
    if name not in base.files or (row is not None and place_of_row(name, row) != key):
        raise InputError(f"The delta's tensor {key} is not in {base.folder}.")
    shape = list(base[name].shape)
    if row is not None and (not shape or row >= shape[0]):
        raise InputError(f"The delta's tensor {key} is beyond the rows of {name}, {shape}.")
    if list(value.shape) != (shape if row is None else shape[1:]):
        raise InputError(f"The delta's tensor {key} is {list(value.shape)}; {name} is {shape}.")
    if value.dtype != dtype:
        raise InputError(f"The delta's tensor {key} is {value.dtype}; the model's is {dtype}.")
