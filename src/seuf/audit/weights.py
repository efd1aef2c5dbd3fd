"""Compare base and unlearned weights, expert by expert: only what a method may change may differ.

The delta is laid over the base as it is read, or an exported checkpoint is compared; bits decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from seuf.audit import Check, failed, passed, printable
from seuf.audit.exported import open_checkpoint
from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint, folder_digest, fused_keys
from seuf.moe.comparison import CHUNK, Comparison, Overlaid, compare, differing
from seuf.moe.deltas import Delta
from seuf.moe.digests import type_of
from seuf.moe.names import split_row
from seuf.unlearning.allowed_changes import allowed_changes, owner_of
from seuf.unlearning.settings import Method

Experts = list[tuple[int, int]]
SHORT = 12  # characters of a digest that are shown


def check_weights(
    base_folder: Path, delta: Delta, method: Method, experts: Experts, exported: Path | None = None
) -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of a delta's weights, and the changes as the report lists them.

    Args:
        base_folder: The base model's checkpoint.
        delta: Of the method.
        method: What it may change.
        experts: (layer, expert) pairs that it was given.
        exported: An exported checkpoint, to be the base with the delta applied, to the bit.
    """
    checks = [_finite(delta)]
    changes: dict[str, Any] = {"tensors": []}
    try:
        compared = _compare(base_folder, delta, exported)
        checks += [_base(compared), *_changes(compared, method, experts), *_exported(compared)]
        found = compared.comparison
        changes = {
            "tensors": [change._asdict() for change in found.changes],
            "changed": found.changed,
            "total": found.total,
            "equal": found.equal,
            "model": found.model_digest,
        }
    except (ValueError, OSError, SafetensorError) as error:
        checks += [*_other_base(base_folder, delta), failed("weights", str(error))]
    return [printable(check) for check in checks], changes


def unlearned_digest(base_folder: Path, delta: Delta) -> str:
    """Return the `model_digest` of a base with its delta applied, without making that model.

    Raises:
        InputError: If the delta belongs to another base, or does not fit this one.
    """
    base = open_checkpoint(base_folder)
    found = compare(base, Overlaid(base, delta), delta.dtypes)
    if found.base_digest != delta.base:
        raise InputError(
            f"This delta belongs to base model {delta.base[:SHORT]}; "
            f"{base_folder} is {found.base_digest[:SHORT]}."
        )
    return found.model_digest


@dataclass(frozen=True)
class _Compared:
    """A base, its delta laid over it, what was exported of them, and how they compare."""

    base: Checkpoint
    delta: Delta
    overlaid: Overlaid
    exported: Checkpoint | None
    model: Any
    comparison: Comparison


def _compare(folder: Path, delta: Delta, exported_folder: Path | None) -> _Compared:
    base = open_checkpoint(folder)
    overlaid = Overlaid(base, delta)
    exported = None if exported_folder is None else open_checkpoint(exported_folder)
    model = base.empty_model()
    comparison = compare(base, exported or overlaid, delta.dtypes, model)
    return _Compared(base, delta, overlaid, exported, model, comparison)


def _finite(delta: Delta) -> Check:
    for key, tensor in sorted(delta.tensors.items()):
        if not all(part.double().isfinite().all() for part in tensor.flatten().split(CHUNK)):
            return failed("finite", f"the delta's {key} holds a number that is not finite")
    return passed("finite", f"all numbers of {len(delta.tensors)} tensors are finite")


def _base(compared: _Compared) -> Check:
    folder, digest, delta = compared.base.folder, compared.comparison.base_digest, compared.delta
    if digest != delta.base:
        return _swapped(folder, digest, delta)
    return passed("base", f"{folder} is {delta.base[:SHORT]}, the delta's base")


def _other_base(folder: Path, delta: Delta) -> Iterator[Check]:
    """Yield that the base is another one, if that can be seen; it explains any other error."""
    try:
        open_checkpoint(folder)
        digest = folder_digest(folder, delta.dtypes)
    except (ValueError, OSError, SafetensorError, KeyError, AttributeError, TypeError):
        return
    if digest != delta.base:
        yield _swapped(folder, digest, delta)


def _swapped(folder: Path, digest: str, delta: Delta) -> Check:
    return failed(
        "base",
        f"{folder} is {digest[:SHORT]}, not {delta.base[:SHORT]}, the base that the delta belongs "
        "to: a swapped base, or one that has changed",
    )


def _changes(compared: _Compared, method: Method, experts: Experts) -> Iterator[Check]:
    """Yield if nothing has changed but what the method may change."""
    allowed = allowed_changes(compared.model, method, experts)
    split = (split_row(key) for key in allowed)
    by_rows = {name for name, row in split if row is not None}  # some rows of these may change
    found, changed = compared.comparison, list[str]()
    for key in (change.key for change in found.changes):
        if key in allowed or split_row(key)[0] != key or key not in by_rows:
            changed.append(key)
            continue
        after = (compared.exported or compared.overlaid)[key]
        dtype = type_of(key, compared.delta.dtypes)
        changed += differing(key, compared.base[key], after, dtype, fused=True)
    if broken := [key for key in changed if key not in allowed]:
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield failed(
            "weights",
            f"{broken[0]} ({owner_of(compared.model, broken[0])}) has changed, which the method "
            f"may not change{more}",
        )
        return
    count, share = len(found.changes), found.changed / found.total
    yield passed(
        "weights",
        f"only what was promised has changed, {count} of {count + found.equal} tensors and experts "
        f"({found.changed:,} of {found.total:,} parameters, {share:.3%}); "
        f"{found.equal} are equal to the bit",
    )


def _exported(compared: _Compared) -> Iterator[Check]:
    """Yield if the exported checkpoint is base and delta, to the bit."""
    delta, exported = compared.delta, compared.exported
    if exported is None:
        return
    fused = fused_keys(compared.model)
    wrong = {
        name
        for key in compared.overlaid.touched
        for name in differing(
            key, compared.overlaid[key], exported[key], type_of(key, delta.dtypes), key in fused
        )
    }
    wrong |= {
        change.key
        for change in compared.comparison.changes
        if change.key not in delta.tensors and split_row(change.key)[0] not in delta.tensors
    }
    if wrong:
        key = min(wrong)
        yield failed(
            "exported",
            f"{exported.folder}: {key} ({owner_of(compared.model, key)}) is not what base and "
            "delta make of it",
        )
    else:
        yield passed("exported", f"{exported.folder} is the base with the delta, to the bit")
