"""What a stage needs of a machine, as catalog or parameters state it, and what this machine has.

A catalog entry says it of the stage that writes it: `metadata: {dvc: {resources: {gpu: 1}}}`. Over
that lie a study's parameters, by the name of a stage:

    resources:
      train: {gpu_share: 0.25, memory_gb: 40}

No stage reads either, so none runs again when they change.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import psutil
from kedro.pipeline import Node

from kedro_dvc.files import WorkflowError
from kedro_dvc.project import Study, for_dvc

GIGABYTE = 1e9
VISIBLE = "CUDA_VISIBLE_DEVICES"
PARAMETER = "resources"


class Resources(NamedTuple):
    """What a stage needs.

    Attributes:
        cpu: Processor cores; 0 if nothing is said.
        gpu: GPUs that there must be: a part of one, or a whole number.
        gpu_share: The part of a GPU that it takes where there is one, if `gpu` says nothing.
        memory_gb: Memory of the machine in GB; 0 if nothing is said.
    """

    cpu: float = 0
    gpu: float | None = None
    gpu_share: float = 1
    memory_gb: float = 0

    def gpus(self, machine_has_some: bool) -> float:
        """Return how many GPUs it takes on a machine that has some, or none.

        A stage of which nothing is said takes a whole one: it may use it.
        """
        if self.gpu is not None:
            return self.gpu
        return self.gpu_share if machine_has_some else 0


NOTHING = Resources(gpu=0)


def stated_resources(study: Study) -> dict[str, Resources]:
    """Return what each node of a study needs, by its name.

    Raises:
        WorkflowError: If a statement has another key or value than it can have, or is of no stage.
    """
    stated = study.config["parameters"].get(PARAMETER) or {}
    nodes = study.pipelines["__default__"].nodes
    known = {name for node in nodes for name in _names(node)}
    where = f"{PARAMETER} in the parameters of {study.name}"
    for name in _mapping(stated, where):
        if name not in known:
            near = ", ".join(get_close_matches(name, known))
            raise WorkflowError(
                f"{where}: there is no stage {name!r}{near and f'; nearest: {near}'}"
            )
    made = {}
    for node in nodes:
        needs: dict[str, Any] = {}
        for output in node.outputs:
            said = for_dvc(study.dataset(output)).get("resources") or {}
            needs |= _checked(said, f"metadata of {output!r} in the catalog")
        for name in _names(node):
            needs |= _checked(stated.get(name) or {}, f"{where}, of {name!r}")
        made[node.name] = Resources(**needs)
    return made


def _names(node: Node) -> list[str]:
    """Return the names that a node has here: that of its stage, then that of its item alone."""
    name = node.name.removeprefix(f"{node.namespace}.")
    if node.namespace is None:
        return [name]
    return [name, f"{name}@{node.namespace.rpartition('.')[2]}"]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WorkflowError(f"{where}: {value!r} is no mapping.")
    return value


def _checked(said: Any, where: str) -> dict[str, Any]:
    for key, value in _mapping(said, where).items():
        if key not in Resources._fields:
            raise WorkflowError(
                f"{where}: {key!r} is no resource; known: {', '.join(Resources._fields)}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise WorkflowError(f"{where}: {key} is {value!r}, it must be a number from 0 on.")
        if key == "gpu" and value > 1 and value != int(value):
            raise WorkflowError(f"{where}: gpu is {value}, above 1 it must be a whole number.")
        if key == "gpu_share" and value > 1:
            raise WorkflowError(f"{where}: gpu_share is {value}, it must be 1 at most.")
    return dict(said)


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine that this process may use, without initialising CUDA."""
    if (visible := os.environ.get(VISIBLE)) is not None:
        listed = [one.strip() for one in visible.split(",")]
        return [one for one in listed if one and one != "-1" and one != "NoDevFiles"]
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = listing.stdout.splitlines() if listing.returncode == 0 else []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in lines))]


def cores() -> int:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gb() -> float:
    """Return the memory of this machine in GB."""
    return float(psutil.virtual_memory().total / GIGABYTE)
