"""The digest of the model that a delta makes of its base, without that model being made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint, folder_digest
from seuf.moe.deltas import Delta
from seuf.moe.digests import digest_of
from seuf.moe.names import split_row, to_checkpoint, weight_names

Changed = dict[str, dict[int | None, Tensor]]  # by key, then by row; None for the whole tensor


def digest_after(base: Path, delta: Delta) -> str:
    """Return the `model_digest` of a base with a delta applied; one tensor at a time is read.

    Args:
        base: Folder of the base checkpoint.
        delta: Belongs to it.

    Raises:
        InputError: If the base is another one, or holds no such tensor.
    """
    if (digest := folder_digest(base, delta.dtypes)) != delta.base:
        raise InputError(
            f"This delta belongs to base model {delta.base[:12]}; {base} is {digest[:12]}."
        )
    checkpoint, changed = Checkpoint(base), _changed(delta)
    keys = _keys(checkpoint.empty_model())
    if odd := sorted(changed.keys() - keys):
        raise InputError(f"{base} holds no {', '.join(odd[:3])}, which the delta changes.")
    return digest_of(_tensors(checkpoint, keys, changed, delta.dtypes), total=len(keys))


def _changed(delta: Delta) -> Changed:
    changed: Changed = {}
    for place, value in delta.tensors.items():
        name, row = split_row(place)
        changed.setdefault(name, {})[row] = value
    return changed


def _keys(model: Any) -> set[str]:
    """Return the keys of all that a checkpoint of an empty model holds."""
    tensors = model.state_dict()
    return {key for n in weight_names(model) for key in to_checkpoint(model, n, tensors[n])}


def _tensors(
    checkpoint: Checkpoint, keys: set[str], changed: Changed, dtypes: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    for key in checkpoint.in_order():
        if key in keys:
            tensor = checkpoint.as_loaded(key, dtypes)
            yield key, _with(tensor, changed[key]) if key in changed else tensor


def _with(tensor: Tensor, values: dict[int | None, Tensor]) -> Tensor:
    tensor = tensor.clone()  # it may lie in the mapped file of the base
    for row, value in values.items():
        (tensor if row is None else tensor[row]).copy_(value)
    return tensor
