"""Unlearn once more from the recorded inputs, and hold the new delta against the recorded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.io import DatasetError
from kedro.pipeline import Node

from seuf.audit.agreement import held
from seuf.audit.check import Check
from seuf.datasets.progress import FileProgress
from seuf.errors import InputError
from seuf.kedro_dvc.project.study import Study
from seuf.kedro_dvc.running.determinism import set_order_of_sums
from seuf.kedro_dvc.running.environment import machine
from seuf.kedro_dvc.running.records import read_record


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
    set_order_of_sums(node)
    made = node.run(inputs)[f"{method}.delta"]
    FileProgress(folder).delete()
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
