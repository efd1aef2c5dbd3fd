"""Find what differs between a checkpoint and another one, or itself with a delta laid over it.

Bits decide, not values: as they are stored, where both sides store one type, and else as they are
loaded. No more tensors are in memory at once than there are processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import cpu_count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint, fused_keys
from seuf.moe.deltas import Delta
from seuf.moe.digests import DEFAULT, digest_line, digest_of_lines, type_of
from seuf.moe.names import empty_checkpoint, row_path, same_bits, split_row

CHUNK = 1 << 22  # elements that are in float64 at once


class Change(NamedTuple):
    """A tensor, or one expert of a fused one, that is not what it was.

    Attributes:
        key: Its key, or `key[e]`.
        elements: How many numbers it holds.
        largest: Of the finite elements, the largest change.
        relative: Norm of the change by the norm of what was there; None if that was all zeros.
    """

    key: str
    elements: int
    largest: float
    relative: float | None


@dataclass(frozen=True)
class Comparison:
    """How a checkpoint differs from its base.

    Attributes:
        changes: What differs, in the order of the keys.
        equal: How many tensors, or experts of fused ones, are equal bit by bit.
        total: How many elements both hold.
        base_digest: `folder_digest` of the base.
        model_digest: `folder_digest` of the other.
    """

    changes: list[Change]
    equal: int
    total: int
    base_digest: str
    model_digest: str

    @property
    def changed(self) -> int:
        """How many elements lie in what has changed."""
        return sum(change.elements for change in self.changes)


class Overlaid:
    """A checkpoint with a delta laid over it, as if that had been exported; nothing is written.

    Args:
        base: The checkpoint.
        delta: Only its tensors count, not which base it names.

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
    """Return types by key, as a delta's file names them.

    Raises:
        InputError: If one is no type of torch, or there is no default.
    """
    if not isinstance(dtypes, dict):
        raise InputError(f"{dtypes!r} are no types that a model could be loaded in.")
    for key, name in {DEFAULT: "", **dtypes}.items():
        if not isinstance(getattr(torch, str(name), None), torch.dtype):
            raise InputError(f"{name!r} is no type that {key} could be loaded in.")
    return dtypes


def _check_fits(base: Checkpoint, key: str, value: Tensor, dtype: torch.dtype) -> None:
    name, row = split_row(key)
    if name not in base.files or (row is not None and row_path(name, row) != key):
        raise InputError(f"The delta's tensor {key} is not in {base.folder}.")
    shape = list(base[name].shape)
    if row is not None and (not shape or row >= shape[0]):
        raise InputError(f"The delta's tensor {key} is beyond the rows of {name}, {shape}.")
    if list(value.shape) != (shape if row is None else shape[1:]):
        raise InputError(f"The delta's tensor {key} is {list(value.shape)}; {name} is {shape}.")
    if value.dtype != dtype:
        raise InputError(f"The delta's tensor {key} is {value.dtype}; the model's is {dtype}.")


def compare(
    base: Checkpoint, other: Checkpoint | Overlaid, dtypes: dict[str, str], model: Any = None
) -> Comparison:
    """Return what differs, and both digests, from reading each file once.

    Args:
        base: A checkpoint.
        other: Another one, or an overlay of this one.
        dtypes: Types that both are loaded in, see `checkpoint_dtypes`.
        model: `base.empty_model()`, if it is at hand.

    Raises:
        InputError: If they differ in more than values, or the base is not a whole checkpoint.
    """
    model = model if model is not None else base.empty_model()
    keys, model_keys = base.in_order(), empty_checkpoint(model).keys()
    for folder, required, present in (
        (base.folder, model_keys, base.files.keys()),
        (other.folder, base.files.keys(), other.files.keys()),
    ):
        if missing := sorted(required - present):
            raise InputError(
                f"{folder} is not a whole checkpoint: it lacks {', '.join(missing[:3])}."
            )
    if more := sorted(other.files.keys() - base.files.keys()):
        raise InputError(
            f"{other.folder} holds what {base.folder} does not: {', '.join(more[:3])}."
        )
    work = partial(_compare_tensor, base, other, checked(dtypes), fused_keys(model))
    with ThreadPoolExecutor(cpu_count()) as pool:
        results = pool.map(work, keys)
        shown = tqdm(results, total=len(keys), desc="comparing", unit="tensor", disable=None)
        compared = dict(zip(keys, shown, strict=True))
    return Comparison(
        sorted(change for one in compared.values() for change in one.changes),
        sum(one.equal for one in compared.values()),
        sum(one.elements for one in compared.values()),
        digest_of_lines(one.base_line for key, one in compared.items() if key in model_keys),
        digest_of_lines(one.other_line for key, one in compared.items() if key in model_keys),
    )


def differing(key: str, one: Tensor, other: Tensor, dtype: torch.dtype, fused: bool) -> list[str]:
    """Return the key if the tensors are not equal bit by bit; of fused ones each expert's own."""
    if one.dtype != other.dtype:
        one, other = one.to(dtype), other.to(dtype)
    if not fused:
        return [] if same_bits(one, other) else [key]
    return [row_path(key, e) for e in range(len(one)) if not same_bits(one[e], other[e])]


class _ComparedTensor(NamedTuple):
    """One tensor of a `Comparison`, and its lines in the two digests."""

    changes: list[Change]
    equal: int
    elements: int
    base_line: str
    other_line: str


def _compare_tensor(
    base: Checkpoint,
    other: Checkpoint | Overlaid,
    dtypes: dict[str, str],
    fused: set[str],
    key: str,
) -> _ComparedTensor:
    one, dtype = base[key], type_of(key, dtypes)
    two = other.over(key, one) if isinstance(other, Overlaid) else other[key]
    if one.shape != two.shape:
        raise InputError(f"{key} has another shape in {other.folder}.")
    count = len(one) if key in fused else 1
    names = [] if one is two else differing(key, one, two, dtype, key in fused)
    before = one.to(dtype)
    line = digest_line(key, before)
    if not names:
        return _ComparedTensor([], count, one.numel(), line, line)
    after = two.to(dtype)
    changes = [_change(name, before, after) for name in names]
    return _ComparedTensor(changes, count - len(names), one.numel(), line, digest_line(key, after))


def _change(name: str, before: Tensor, after: Tensor) -> Change:
    row = split_row(name)[1]
    if row is not None:
        before, after = before[row], after[row]
    largest = change = norm = 0.0
    for one, two in _chunks(before, after):
        moved = (two - one)[(two - one).isfinite()]
        largest = max(largest, moved.abs().max().item() if len(moved) else 0.0)
        change += moved.square().sum().item()
        norm += one[one.isfinite()].square().sum().item()
    relative = (change / norm) ** 0.5 if norm else None
    return Change(name, before.numel(), largest, relative)


def _chunks(one: Tensor, two: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = zip(one.flatten().split(CHUNK), two.flatten().split(CHUNK), strict=True)
    return ((a.double(), b.double()) for a, b in pairs)
