"""Unlearn once more from the recorded inputs, and hold the deltas against each other.

On a CPU a run is the same to the byte. On a GPU sums are made in an order that is not always the
same, so that two runs of one method part a little.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.pipeline import Node
from torch import Tensor, nn

from seuf.audit.check import Check, failed, passed
from seuf.datasets.progress import FileProgress
from seuf.errors import InputError
from seuf.kedro_dvc.project.study import Study
from seuf.moe.deltas import Delta
from seuf.moe.places import places_of, storage, to_checkpoint

# Of the change itself, not of the weights: these are so near their base that a delta which changes
# nothing would pass. What is left is a hundredth part of what the method has done.
TOLERANCE = 1e-2
NAME = "replay"


def replay(study: Study, method: str, folder: Path) -> tuple[Check, Path]:
    """Return if a method's delta can be made again, and the delta that was made.

    Nothing of the project is written.

    Args:
        study: Has run; its project is the working directory.
        method: Of its table of methods.
        folder: Gets the new delta, and while it lasts what the run has come to.

    Raises:
        InputError: If there is no such method, it has not run, or an input is not here.
    """
    node = _node(study, method)
    recorded = Path(study.dataset(f"{method}.delta")["filepath"])
    if not recorded.is_file():
        raise InputError(f"{recorded} is missing: there is nothing to hold a replay against.")
    inputs = _inputs(study, node, folder)
    made = node.run(inputs)[f"{method}.delta"]
    FileProgress(folder).delete()
    path = folder / recorded.name
    made.save(path)
    base = inputs["base_model"].model
    return held(path, recorded, base, base.device.type == "cuda"), path


def held(path: Path, recorded: Path, base: nn.Module, on_gpu: bool) -> Check:
    """Return if a delta is the recorded one: to the byte, or on a GPU within `TOLERANCE`.

    Args:
        path: The delta that was made again.
        recorded: The one that the study keeps.
        base: The model that both belong to.
        on_gpu: Whether it lies there.
    """
    if path.read_bytes() == recorded.read_bytes():
        return passed(NAME, f"made again, {recorded} is equal to the byte")
    try:
        made, kept = Delta.load(path), Delta.load(recorded)
    except (InputError, TypeError, ValueError) as error:
        return failed(NAME, f"{recorded} cannot be read: {error}")
    if why := _unlike(made, kept):
        return failed(NAME, f"made again, {recorded} is another one: {why}")
    parted = departures(made, kept, _before(base, kept))
    key = max(parted, key=lambda one: parted[one], default="")
    if not parted or parted[key] == 0:
        return failed(NAME, f"made again, {recorded} has these tensors, but other bytes")
    told = f"{key} by {parted[key]:.2g} of its change"
    if on_gpu and parted[key] <= TOLERANCE:
        return passed(NAME, f"made again on a GPU, tensors part by little, most {told}")
    allowed = f"; {TOLERANCE:g} is allowed" if on_gpu else ""
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
    change = (recorded.double() - before.double().cpu()).norm()
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


def _before(base: nn.Module, delta: Delta) -> dict[str, Tensor]:
    """Return the base's tensors of a delta, by key."""
    return {
        key: tensor
        for place in places_of(base, delta.tensors)
        for key, tensor in to_checkpoint(base, place, storage(base, place)).items()
    }


def _node(study: Study, method: str) -> Node:
    for node in study.pipelines["unlearning"].nodes:
        if f"{method}.delta" in node.outputs:
            return node
    raise InputError(f"The study {study.name!r} has no method {method!r}.")


def _inputs(study: Study, node: Node, folder: Path) -> dict[str, Any]:
    """Return what the node reads, but for what a run that was killed has left.

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
    kept = {name: FileProgress(folder) for name, x in found.items() if isinstance(x, FileProgress)}
    return {**found, **kept}


def _said(error: BaseException) -> str:
    """Return what a data set says, out of what Kedro wraps it in, once or twice."""
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    return str(error)
