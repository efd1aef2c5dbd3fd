"""What stages need of a machine, what this machine has, and how much memory a stage takes.

A catalog entry states it for the stage that writes it: `metadata: {dvc: {resources: {gpu: 1}}}`. A
study's parameters override that, by the name of a stage:

    resources:
      train: {gpu_share: 0.25, memory_gb: 40}

No stage reads either, so none runs again when they change.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, Self

import psutil
from kedro.pipeline import Node

from kedro_dvc.files import WorkflowError
from kedro_dvc.project import Study, for_dvc

GIGABYTE = 1e9
VISIBLE = "CUDA_VISIBLE_DEVICES"
PARAMETER = "resources"
INTERVAL = 0.05  # seconds between two measurements of memory


class Resources(NamedTuple):
    """What a stage needs.

    Attributes:
        cpu: Processor cores; 0 if not stated.
        gpu: GPUs without which it cannot run: part of one, or a whole number.
        gpu_share: The part of a GPU that it takes on a machine with GPUs, if `gpu` is not stated.
        memory_gb: Memory of the machine in GB; 0 if not stated.
    """

    cpu: float = 0
    gpu: float | None = None
    gpu_share: float = 1
    memory_gb: float = 0

    def gpus(self, machine_has_some: bool) -> float:
        """Return how many GPUs the stage takes; by default a whole one, if there are any."""
        if self.gpu is not None:
            return self.gpu
        return self.gpu_share if machine_has_some else 0


NOTHING = Resources(gpu=0)


def stated_resources(study: Study) -> dict[str, Resources]:
    """Return what each node of a study needs, by name.

    Raises:
        WorkflowError: If a stage, a key or a value is not allowed.
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
    """Return the names that may state a node's resources: of its stage, then of its item alone."""
    name = node.name.removeprefix(f"{node.namespace}.")
    if node.namespace is None:
        return [name]
    return [name, f"{name}@{node.namespace.rpartition('.')[2]}"]


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WorkflowError(f"{where}: {value!r} is not a mapping.")
    return value


def _checked(said: Any, where: str) -> dict[str, Any]:
    for key, value in _mapping(said, where).items():
        if key not in Resources._fields:
            raise WorkflowError(
                f"{where}: {key!r} is not a resource; known: {', '.join(Resources._fields)}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < 0:
            raise WorkflowError(f"{where}: {key} is {value!r}, but must be a number from 0.")
        if key == "gpu" and value > 1 and value != int(value):
            raise WorkflowError(f"{where}: gpu is {value}, but above 1 must be a whole number.")
        if key == "gpu_share" and value > 1:
            raise WorkflowError(f"{where}: gpu_share is {value}, but must be at most 1.")
    return dict(said)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, without initialising CUDA."""
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


class MemoryPeak:
    """Measures the peak memory of this process and of those it started.

    Attributes:
        resident: The most resident memory at a measurement, in bytes.
        on_device: The most that torch allocated in this process on the current CUDA device, in
            bytes; None without CUDA.
    """

    def __init__(self) -> None:
        self.resident = 0
        self.on_device: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start measuring."""
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
        self._thread.start()

    def stop(self) -> None:
        """Stop measuring, if it was started."""
        if self._thread.ident is None:
            return
        self._over.set()
        self._thread.join()
        if (cuda := _cuda()) is not None:
            self.on_device = cuda.max_memory_allocated()

    def _measure(self) -> None:
        process, known = psutil.Process(), set[int]()
        while True:
            children = process.children(recursive=True)
            total = 0
            # right after a fork a child seems to have all of this process's memory
            for one in (process, *(child for child in children if child.pid in known)):
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            known = {child.pid for child in children}
            self.resident = max(self.resident, total)
            if self._over.wait(INTERVAL):
                return


def _cuda() -> Any:
    """Return torch.cuda if this process uses it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
