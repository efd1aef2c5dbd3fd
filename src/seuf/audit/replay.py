"""When a delta that was made again is the one that was recorded.

In one thread of a CPU a run is the same to the byte, and so it is on one GPU as `kedro run` sets
it, see `seuf.determinism`. In several threads, on another kind of processor or
with another version of torch sums are made in another order, and two runs of one method part.

Unlearn once more from the recorded inputs, and hold the new delta against the recorded one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.pipeline import Node
from torch import Tensor, nn

from kedro_dvc.project import Study
from kedro_dvc.records import machine, read_record
from seuf.audit.subject import Check, failed, passed
from seuf.determinism import set_deterministic
from seuf.inputs import InputError
from seuf.moe.deltas import Delta
from seuf.moe.names import paths_of_keys, tensor_at, to_checkpoint

# Of the change itself, not of the weights: these are so near their base that a delta which changes
# nothing would pass. Where the order of sums is free, two runs of 100 steps in bfloat16 part by up
# to 0.064, and runs with two seeds by 0.59 at least (`python -m bench.replays --no-deterministic`).
TOLERANCE = 0.15
NAME = "replay"


def held(path: Path, recorded: Path, base: nn.Module, exact: bool) -> Check:
    """Return if a delta is the recorded one: to the byte, or else within `TOLERANCE`.

    Args:
        path: The delta that was made again.
        recorded: The one that the study keeps.
        base: The model that both belong to.
        exact: Whether sums are made in the order of then: in one thread of that kind of CPU.
    """
    if path.read_bytes() == recorded.read_bytes():
        return passed(NAME, f"made again, {recorded} is equal to the byte")
    try:
        made, kept = Delta.load(path), Delta.load(recorded)
    except (InputError, TypeError, ValueError) as error:
        return failed(NAME, f"{recorded} cannot be read: {error}")
    if why := _unlike(made, kept):
        return failed(NAME, f"made again, {recorded} is another one: {why}")
    parted = departures(made, kept, base_tensors(base, kept))
    key = max(parted, key=lambda one: parted[one], default="")
    if not parted or parted[key] == 0:
        return failed(NAME, f"made again, {recorded} has these tensors, but other bytes")
    told = f"{key} by {parted[key]:.2g} of its change"
    if not exact and parted[key] <= TOLERANCE:
        return passed(NAME, f"made again, tensors part by what rounding does, most {told}")
    allowed = "" if exact else f"; {TOLERANCE:g} is allowed"
    return failed(NAME, f"made again, {recorded} is another one: it parts in {told}{allowed}")


def departures(made: Delta, recorded: Delta, before: dict[str, Tensor]) -> dict[str, float]:
    """Return how far two deltas part in each tensor, as a share of what was recorded as its change.

    Args:
        made: Holds the same keys as the other.
        recorded: The one that is believed.
        before: The base's tensors, by key.
    """
    return {
        key: _share(made.tensors[key], tensor, before[key])
        for key, tensor in recorded.tensors.items()
    }


def _share(made: Tensor, recorded: Tensor, before: Tensor) -> float:
    parted = (made.double() - recorded.double()).norm()
    change = (recorded.double() - before.to(recorded.device).double()).norm()
    share = (parted / change).item() if parted else 0.0
    return share if share == share else float("inf")  # not a number: no share at all


def _unlike(made: Delta, recorded: Delta) -> str | None:
    """Return what of two deltas differs beside numbers, if anything does."""
    if odd := sorted(made.tensors.keys() ^ recorded.tensors.keys()):
        return f"only one of them changes {odd[0]}"
    for key, tensor in made.tensors.items():
        other = recorded.tensors[key]
        if (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
            return f"{key} has another shape or type"
    for what in ("base", "dtypes", "about"):
        if getattr(made, what) != getattr(recorded, what):
            return f"its header says another {what!r}"
    return None


def base_tensors(base: nn.Module, delta: Delta) -> dict[str, Tensor]:
    """Return the base's tensors of a delta, by key, as `departures` wants them."""
    return {
        key: tensor
        for place in paths_of_keys(base, delta.tensors)
        for key, tensor in to_checkpoint(base, place, tensor_at(base, place)).items()
    }


def replay(study: Study, method: str, folder: Path) -> tuple[Check, Path]:
    """Return if a method's delta can be made again, and the delta that was made.

    Nothing of the project is written.

    Args:
        study: Has run; its project is the working directory.
        method: Of its table of methods.
        folder: Gets the new delta.

    Raises:
        InputError: If there is no such method, it has not run, or an input is not here.
    """
    node = _node(study, method)
    recorded = Path(study.dataset(f"{method}.delta")["filepath"])
    if not recorded.is_file():
        raise InputError(f"{recorded} is missing: there is nothing to hold a replay against.")
    inputs = _inputs(study, node)
    set_deterministic(True)
    made = node.run(inputs)[f"{method}.delta"]
    path = folder / recorded.name
    made.save(path)
    base, threads = inputs["base_model"].model, inputs["params:unlearning"].threads
    exact = base.device.type == "cpu" and threads == 1 and made_alike(study, node)
    return held(path, recorded, base, exact), path


def made_alike(study: Study, node: Node) -> bool:
    """Return if a node's recorded run had this kind of processor and torch; yes if nobody knows."""
    try:
        record = read_record(study.project, study.name, node.name)
    except ValueError:  # the audit itself fails for it
        record = None
    return record is None or _adds_like(record["environment"]) == _adds_like(machine())


def _adds_like(environment: dict[str, Any]) -> tuple[str, str]:
    return environment["processor"], environment["packages"]["torch"]


def _node(study: Study, method: str) -> Node:
    for node in study.pipelines["unlearning"].nodes:
        if f"{method}.delta" in node.outputs:
            return node
    raise InputError(f"The study {study.name!r} has no method {method!r}.")


def _inputs(study: Study, node: Node) -> dict[str, Any]:
    """Return what the node reads.

    Raises:
        InputError: If something is not here, or is not what it should be.
    """
    session = KedroSession.create(study.project, env=study.name)
    catalog = session.load_context().catalog
    try:
        found = {name: catalog.load(name) for name in sorted(node.inputs)}
    except DatasetError as error:
        raise InputError(_said(error)) from error
    finally:
        session.close()
    return found


def _said(error: BaseException) -> str:
    """Return what a data set says, out of what Kedro wraps it in, once or twice."""
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    return str(error)
