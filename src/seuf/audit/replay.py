"""Unlearn again from the recorded inputs, and compare the new delta with the recorded one.

Two runs are equal to the byte in one CPU thread, and on one GPU with the settings of `kedro run`
(`seuf.determinism`). Several threads, another kind of processor or another version of torch sum in
another order, and two runs differ.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.pipeline import Node
from torch import Tensor, nn

from kedro_dvc.evidence import read_record
from kedro_dvc.project import Study
from kedro_dvc.records import machine
from seuf.audit import Check, failed, passed
from seuf.audit.audited import AuditedMethod
from seuf.determinism import set_deterministic
from seuf.inputs import InputError
from seuf.moe.deltas import Delta
from seuf.moe.names import paths_of_keys, tensor_at, to_checkpoint

# Relative to the change, not to the weights: these are so close to the base's that an empty delta
# would pass. If the order of sums is free, two runs of 100 steps in bfloat16 differ by up to 0.064,
# and runs with two seeds by at least 0.59 (`python -m bench.replays --no-deterministic`).
TOLERANCE = 0.15
NAME = "replay"


def check_replay(audited: AuditedMethod) -> Check:
    """Check that unlearning again gives the same delta; fail if that cannot be done.

    Catches a delta that was forged together with lock, record and commit.
    """
    try:
        with TemporaryDirectory() as folder:
            return replay(audited.study, audited.method, Path(folder))[0]
    except InputError as error:  # the forget set may be erased
        erased = [path for path in audited.lineage[-1].deps if path in audited.erased]
        gone = [path for path in erased if not (audited.project / path).exists()]
        why = f"{gone[0]} {audited.why_missing(gone[0])}" if gone else str(error)
        return failed(NAME, f"the delta cannot be made again: {why}")


def replay(study: Study, method: str, folder: Path) -> tuple[Check, Path]:
    """Make a method's delta again; return its comparison with the recorded one, and its file.

    Nothing in the project is written.

    Args:
        study: A study that has run; its project is the working directory.
        method: A name from its table of methods.
        folder: Where to write the new delta.

    Raises:
        InputError: If there is no such method, it has not run, or an input is missing.
    """
    output = f"{method}.delta"
    node = next((n for n in study.pipelines["unlearning"].nodes if output in n.outputs), None)
    if node is None:
        raise InputError(f"The study {study.name!r} has no method {method!r}.")
    recorded = Path(study.dataset(output)["filepath"])
    if not recorded.is_file():
        raise InputError(f"{recorded} is missing: there is nothing to compare a replay with.")
    inputs = _inputs(study, node)
    set_deterministic(True)
    path = folder / recorded.name
    node.run(inputs)[output].save(path)
    base, threads = inputs["base_model"].model, inputs["params:unlearning"].threads
    exact = base.device.type == "cpu" and threads == 1 and same_arithmetic(study, node)
    return compare_deltas(path, recorded, base, exact), path


def compare_deltas(path: Path, recorded: Path, base: nn.Module, exact: bool) -> Check:
    """Check that a delta is the recorded one: to the byte, or else within `TOLERANCE`.

    Args:
        path: The new delta.
        recorded: The study's delta.
        base: The base model of both.
        exact: Whether the bytes must be equal: both were made in one thread of one kind of CPU.
    """
    if path.read_bytes() == recorded.read_bytes():
        return passed(NAME, f"made again, {recorded} is equal to the byte")
    try:
        again, kept = Delta.load(path), Delta.load(recorded)
    except (InputError, TypeError, ValueError) as error:
        return failed(NAME, f"{recorded} cannot be read: {error}")
    if why := _difference(again, kept):
        return failed(NAME, f"made again, {recorded} is another one: {why}")
    differences = relative_differences(again, kept, base_tensors(base, kept))
    key = max(differences, key=differences.__getitem__, default="")
    if not differences or differences[key] == 0:
        return failed(NAME, f"made again, {recorded} has equal tensors, but other bytes")
    largest = f"{key} by {differences[key]:.2g} of its change"
    if not exact and differences[key] <= TOLERANCE:
        return passed(NAME, f"made again, tensors differ only by rounding, at most {largest}")
    allowed = "" if exact else f"; {TOLERANCE:g} is allowed"
    return failed(NAME, f"made again, {recorded} is another one: it differs in {largest}{allowed}")


def relative_differences(
    again: Delta, recorded: Delta, base: dict[str, Tensor]
) -> dict[str, float]:
    """Return ||again - recorded|| / ||recorded - base|| of each tensor, by key.

    Args:
        again: The new delta, with the keys of the recorded one.
        recorded: The recorded delta.
        base: The base's tensors, by key.
    """
    shares = {}
    for key, tensor in recorded.tensors.items():
        difference = (again.tensors[key].double() - tensor.double()).norm()
        change = (tensor.double() - base[key].to(tensor.device).double()).norm()
        share = (difference / change).item() if difference else 0.0
        shares[key] = share if share == share else float("inf")  # NaN must not pass
    return shares


def base_tensors(base: nn.Module, delta: Delta) -> dict[str, Tensor]:
    """Return the base's tensors that a delta changes, by key."""
    return {
        key: tensor
        for path in paths_of_keys(base, delta.tensors)
        for key, tensor in to_checkpoint(base, path, tensor_at(base, path)).items()
    }


def same_arithmetic(study: Study, node: Node) -> bool:
    """Return whether a node's recorded run had this processor and torch; True without a record."""
    try:
        record = read_record(study.project, study.name, node.name)
    except ValueError:  # then the check `runs` has failed
        record = None
    if record is None:
        return True
    now, then = (
        (environment["processor"], environment["packages"]["torch"])
        for environment in (machine(), record["environment"])
    )
    return now == then


def _difference(again: Delta, recorded: Delta) -> str | None:
    """Return what differs between two deltas besides their numbers; None if nothing does."""
    if unshared := sorted(again.tensors.keys() ^ recorded.tensors.keys()):
        return f"only one of them changes {unshared[0]}"
    for key, tensor in again.tensors.items():
        other = recorded.tensors[key]
        if (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
            return f"{key} has another shape or type"
    for field in ("base", "dtypes", "about"):
        if getattr(again, field) != getattr(recorded, field):
            return f"its header has another {field!r}"
    return None


def _inputs(study: Study, node: Node) -> dict[str, Any]:
    """Return a node's inputs, loaded.

    Raises:
        InputError: If an input is missing or cannot be read.
    """
    session = KedroSession.create(study.project, env=study.name)
    catalog = session.load_context().catalog
    try:
        return {name: catalog.load(name) for name in sorted(node.inputs)}
    except DatasetError as error:
        cause: BaseException = error  # Kedro wraps a data set's error, once or twice
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        raise InputError(str(cause)) from error
    finally:
        session.close()
