"""Compare base and unlearned weights, expert by expert: only what was promised may differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from seuf.audit.exported import opened, plain
from seuf.audit.subject import Check, failed, passed
from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint, folder_digest, fused_keys
from seuf.moe.comparison import CHUNK, Comparison, Overlaid, compare, differing
from seuf.moe.deltas import Delta
from seuf.moe.digests import type_of
from seuf.moe.names import row_path, split_row
from seuf.unlearning.allowed_changes import allowed_changes, owner_of
from seuf.unlearning.settings import Method

Experts = list[tuple[int, int]]
SHORT = 12  # characters of a digest that are shown


def weights(
    base_folder: Path, delta: Delta, method: Method, experts: Experts, other: Path | None = None
) -> tuple[list[Check], dict[str, Any]]:
    """Return the checks of a delta's weights, and what has changed as the report tells it.

    Args:
        base_folder: The base model's checkpoint.
        delta: Of the method.
        method: What it may change.
        experts: (layer, expert) pairs that it was given.
        other: An exported checkpoint, to be the base with the delta applied, to the bit.
    """
    checks = [_finite(delta)]
    told: dict[str, Any] = {"tensors": []}
    try:
        seen = _seen(base_folder, delta, other)
        checks += [_base(seen), *_promised(seen, method, experts), *_exported(seen)]
        told = _told(seen.compared)
    except (ValueError, OSError, SafetensorError) as error:
        checks += [*_swapped(base_folder, delta), failed("weights", str(error))]
    return [plain(check) for check in checks], told


def unlearned_digest(base_folder: Path, delta: Delta) -> str:
    """Return the `model_digest` of a base with its delta applied, without making that model.

    Raises:
        InputError: If the delta belongs to another base, or does not fit this one.
    """
    base = opened(base_folder)
    compared = compare(base, Overlaid(base, delta), delta.dtypes)
    if compared.base_digest != delta.base:
        raise InputError(
            f"This delta belongs to base model {delta.base[:SHORT]}; "
            f"{base_folder} is {compared.base_digest[:SHORT]}."
        )
    return compared.model_digest


@dataclass(frozen=True)
class _Seen:
    """A base, its delta laid over it, what was exported of them, and how they compare."""

    base: Checkpoint
    delta: Delta
    overlaid: Overlaid
    other: Checkpoint | None
    model: Any
    compared: Comparison

    @cached_property
    def fused(self) -> set[str]:
        """The keys that hold all experts of a layer."""
        return fused_keys(self.model)

    def differing(self, key: str, one: Any, two: Any) -> list[str]:
        """Return a key, or its experts, that differ between two tensors."""
        return differing(key, one, two, type_of(key, self.delta.dtypes), key in self.fused)


def _seen(folder: Path, delta: Delta, exported: Path | None) -> _Seen:
    base = opened(folder)
    overlaid = Overlaid(base, delta)
    other = None if exported is None else opened(exported)
    model = base.empty_model()
    compared = compare(base, overlaid if other is None else other, delta.dtypes, model)
    return _Seen(base, delta, overlaid, other, model, compared)


def _finite(delta: Delta) -> Check:
    for key, tensor in sorted(delta.tensors.items()):
        if not all(part.double().isfinite().all() for part in tensor.flatten().split(CHUNK)):
            return failed("finite", f"the delta's {key} holds a number that is not finite")
    return passed("finite", f"all numbers of {len(delta.tensors)} tensors are finite")


def _base(seen: _Seen) -> Check:
    if seen.compared.base_digest != seen.delta.base:
        return _swap(seen.base.folder, seen.compared.base_digest, seen.delta)
    return passed("base", f"{seen.base.folder} is {seen.delta.base[:SHORT]}, the delta's base")


def _swapped(folder: Path, delta: Delta) -> Iterator[Check]:
    """Yield that the base is another one, if that can be told; it explains any other error."""
    try:
        opened(folder)
        digest = folder_digest(folder, delta.dtypes)
    except (ValueError, OSError, SafetensorError, KeyError, AttributeError, TypeError):
        return
    if digest != delta.base:
        yield _swap(folder, digest, delta)


def _swap(folder: Path, digest: str, delta: Delta) -> Check:
    return failed(
        "base",
        f"{folder} is {digest[:SHORT]}, not {delta.base[:SHORT]}, the base that the delta belongs "
        "to: a swapped base, or one that has changed",
    )


def _promised(seen: _Seen, method: Method, experts: Experts) -> Iterator[Check]:
    promised = allowed_changes(seen.model, method, experts)
    changed = [key for change in seen.compared.changes for key in _rows(seen, change.key, promised)]
    if broken := [key for key in changed if key not in promised]:
        more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield failed(
            "weights",
            f"{broken[0]} ({owner_of(seen.model, broken[0])}) has changed, which the method may "
            f"not change{more}",
        )
        return
    found, count = seen.compared, len(seen.compared.changes)
    share = found.changed / found.total
    yield passed(
        "weights",
        f"only what was promised has changed, {count} of {count + found.equal} tensors and experts "
        f"({found.changed:,} of {found.total:,} parameters, {share:.3%}); "
        f"{found.equal} are equal to the bit",
    )


def _rows(seen: _Seen, key: str, promised: set[str]) -> Iterator[str]:
    """Yield a key that has changed; its rows that have, where only rows of it were promised."""
    if key in promised or split_row(key)[0] != key or row_path(key, 0) not in _any_row(promised):
        yield key
        return
    after = seen.overlaid[key] if seen.other is None else seen.other[key]
    yield from differing(key, seen.base[key], after, type_of(key, seen.delta.dtypes), fused=True)


def _any_row(promised: set[str]) -> set[str]:
    """Return the first row of each tensor of which some row was promised."""
    split = (split_row(key) for key in promised)
    return {row_path(name, 0) for name, row in split if row is not None}


def _exported(seen: _Seen) -> Iterator[Check]:
    """Yield if the exported checkpoint is base and delta, to the bit."""
    if seen.other is None:
        return
    touched = seen.overlaid.touched
    odd = [
        name
        for key in sorted(touched)
        for name in seen.differing(key, seen.overlaid[key], seen.other[key])
    ]
    odd += [c.key for c in seen.compared.changes if not _is_in(seen.delta, c.key)]
    for key in sorted(set(odd))[:1]:
        yield failed(
            "exported",
            f"{seen.other.folder}: {key} ({owner_of(seen.model, key)}) is not what base and delta "
            "make of it",
        )
    if not odd:
        yield passed("exported", f"{seen.other.folder} is the base with the delta, to the bit")


def _is_in(delta: Delta, key: str) -> bool:
    return key in delta.tensors or split_row(key)[0] in delta.tensors


def _told(compared: Comparison) -> dict[str, Any]:
    return {
        "tensors": [change._asdict() for change in compared.changes],
        "changed": compared.changed,
        "total": compared.total,
        "equal": compared.equal,
    }
