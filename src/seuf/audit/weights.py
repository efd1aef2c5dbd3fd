"""Compare base and unlearned weights bit by bit: only what the method may change may differ.

The unlearned weights are the base overlaid with the delta while it is read, or an exported
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from seuf.audit import Check, failed, passed, printable
from seuf.audit.exported import check_files, files_without_digest, open_checkpoint
from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint, folder_digest, fused_keys
from seuf.moe.comparison import CHUNK, Comparison, Overlaid, compare, differing
from seuf.moe.deltas import Delta
from seuf.moe.digests import type_of
from seuf.moe.names import split_row
from seuf.unlearning.allowed_changes import allowed_changes, owner_of
from seuf.unlearning.settings import Experts, Method

if TYPE_CHECKING:
    from seuf.audit.audited import AuditedMethod

SHORT = 12  # characters of a digest that a text shows


class WeightsChecked(NamedTuple):
    """The checks of a delta's weights, and its changes.

    Attributes:
        checks: The checks.
        changes: The report's field; `tensors` is empty if nothing was compared.
    """

    checks: list[Check]
    changes: dict[str, Any]


class _Models(NamedTuple):
    """A base model, the models made from it, and their comparison.

    Attributes:
        base: The base model's checkpoint.
        overlaid: The base with the delta.
        exported: An exported checkpoint, if there is one to compare.
        empty: The base model without weights, for the names of its parts.
        comparison: The base compared with the exported checkpoint, else with the overlaid one.
    """

    base: Checkpoint
    overlaid: Overlaid
    exported: Checkpoint | None
    empty: Any
    comparison: Comparison


def check_model(audited: AuditedMethod) -> Iterator[Check]:
    """Check the weights of a method's model, and the files of an exported checkpoint."""
    base = audited.base[1]
    yield from audited.weights.checks
    yield from files_without_digest(base)
    if audited.checkpoint is not None:
        yield from check_files(base, audited.checkpoint)


def check_weights(
    base_folder: Path,
    delta: Delta,
    method: Method,
    experts: Experts,
    exported_folder: Path | None = None,
) -> WeightsChecked:
    """Check the weights of a delta against its base, and an exported checkpoint against both.

    Args:
        base_folder: The base model's checkpoint.
        delta: The method's delta.
        method: The method's settings, which say what it may change.
        experts: The method's (layer, expert) pairs.
        exported_folder: An exported checkpoint that must equal base and delta to the bit.
    """
    checks, changes = [_check_finite(delta)], dict[str, Any](tensors=[])
    try:
        base = open_checkpoint(base_folder)
        exported = None if exported_folder is None else open_checkpoint(exported_folder)
        overlaid, empty = Overlaid(base, delta), base.empty_model()
        found = compare(base, exported or overlaid, delta.dtypes, empty)
        models = _Models(base, overlaid, exported, empty, found)
        checks += [
            _check_base(base_folder, found.base_digest, delta),
            _check_changes(models, delta, allowed_changes(empty, method, experts)),
            *_check_exported(models, delta),
        ]
        changes = {
            "tensors": [change._asdict() for change in found.changes],
            "changed": found.changed,
            "total": found.total,
            "equal": found.equal,
            "model": found.model_digest,
        }
    except (ValueError, OSError, SafetensorError) as error:
        digest = _digest_of(base_folder, delta)  # a wrong base explains any other error
        if digest not in (None, delta.base):
            checks.append(_check_base(base_folder, str(digest), delta))
        checks.append(failed("weights", str(error)))
    return WeightsChecked([printable(check) for check in checks], changes)


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


def _check_finite(delta: Delta) -> Check:
    for key, tensor in sorted(delta.tensors.items()):
        if not all(part.double().isfinite().all() for part in tensor.flatten().split(CHUNK)):
            return failed("finite", f"the delta's {key} holds a number that is not finite")
    return passed("finite", f"all numbers of {len(delta.tensors)} tensors are finite")


def _check_base(folder: Path, digest: str, delta: Delta) -> Check:
    """Check that a base model with this digest is the delta's."""
    if digest == delta.base:
        return passed("base", f"{folder} is {delta.base[:SHORT]}, the delta's base")
    return failed(
        "base",
        f"{folder} is {digest[:SHORT]}, not {delta.base[:SHORT]}, the delta's base: a swapped "
        "base, or one that has changed",
    )


def _digest_of(folder: Path, delta: Delta) -> str | None:
    """Return the digest of a base model; None if it cannot be read."""
    try:
        open_checkpoint(folder)
        return folder_digest(folder, delta.dtypes)
    except (ValueError, OSError, SafetensorError, KeyError, AttributeError, TypeError):
        return None


def _check_changes(models: _Models, delta: Delta, allowed: set[str]) -> Check:
    """Check that only what the method may change differs from the base."""
    split = (split_row(key) for key in allowed)
    by_rows = {name for name, row in split if row is not None}  # only some rows may change
    after, found, changed = models.exported or models.overlaid, models.comparison, list[str]()
    for key in (change.key for change in found.changes):
        if key in allowed or split_row(key)[0] != key or key not in by_rows:
            changed.append(key)
        else:
            dtype = type_of(key, delta.dtypes)
            changed += differing(key, models.base[key], after[key], dtype, fused=True)
    if forbidden := [key for key in changed if key not in allowed]:
        owner = owner_of(models.empty, forbidden[0])
        more = f", and {len(forbidden) - 1} more" if len(forbidden) > 1 else ""
        return failed(
            "weights",
            f"{forbidden[0]} ({owner}) has changed, which the method may not change{more}",
        )
    count, share = len(found.changes), found.changed / found.total
    return passed(
        "weights",
        f"only what the method may change has changed, {count} of {count + found.equal} tensors "
        f"and experts ({found.changed:,} of {found.total:,} parameters, {share:.3%}); "
        f"{found.equal} are equal to the bit",
    )


def _check_exported(models: _Models, delta: Delta) -> Iterator[Check]:
    """Check that the exported checkpoint, if any, equals base and delta to the bit."""
    overlaid, exported = models.overlaid, models.exported
    if exported is None:
        return
    fused = fused_keys(models.empty)
    wrong = {
        name
        for key in overlaid.touched
        for name in differing(
            key, overlaid[key], exported[key], type_of(key, delta.dtypes), key in fused
        )
    }
    wrong |= {
        change.key
        for change in models.comparison.changes
        if change.key not in delta.tensors and split_row(change.key)[0] not in delta.tensors
    }
    if wrong:
        key = min(wrong)
        text = f"{key} ({owner_of(models.empty, key)}) is not what base and delta make of it"
        yield failed("exported", f"{exported.folder}: {text}")
    else:
        yield passed("exported", f"{exported.folder} is the base with the delta, to the bit")
