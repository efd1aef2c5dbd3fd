"""What DVC does not record of a stage's run: when, how long, where, from which commit.

A run of one node, which is what a stage is, leaves `evidence/<study>/runs/<node>.json`, made to be
committed beside dvc.lock: it names the outputs by SHA-256, so what it tells is tied to these bytes
and no others. Package versions and hardware lie in `evidence/environments`, one file for all runs
that share them, named after its own digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline

from kedro_dvc.configuration import BASE
from kedro_dvc.files import path_of, write_text
from kedro_dvc.hashing import sha256s

DECIDING = ("conf", "src", "pyproject.toml", "requirements.lock", "dvc.yaml", "studies/*/dvc.yaml")


@cache
def machine() -> dict[str, Any]:
    """Return what does not change while a process lives: Python, processor, package versions."""
    packages = {one.metadata["Name"]: one.version for one in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }


def commit_of(project: Path) -> tuple[str | None, bool]:
    """Return the commit, and whether all that decides a result is as it was committed."""
    head = _git(project, "rev-parse", "HEAD")
    changed = _git(project, "status", "--porcelain", "--", *DECIDING)
    return (head or "").strip() or None, changed == ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _git(project: Path, *command: str) -> str | None:
    made = subprocess.run(["git", *command], cwd=project, capture_output=True, text=True)
    return made.stdout if made.returncode == 0 else None


EVIDENCE = "evidence"
KEYS = ("node", "started", "seconds", "commit", "clean", "environment", "outputs")
Record = dict[str, Any]


Inputs = Mapping[str, Any]


class RunRecords:
    """Writes the record of a node that has run.

    Args:
        facts: Returns what the project wants to be recorded beside it, by name, after a node has
            run with these inputs.
    """

    def __init__(self, facts: Callable[[Inputs], Record] = lambda inputs: {}) -> None:
        self._facts = facts

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the study."""
        self._project, self._study = Path(context.project_path), context.env or BASE

    @hook_impl
    def before_pipeline_run(self) -> None:
        """Take the time."""
        self._start, self._started = time.perf_counter(), datetime.now(UTC)

    @hook_impl
    def after_node_run(self, inputs: dict[str, Any]) -> None:
        """Ask for the project's own facts."""
        self._own = self._facts(inputs)

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Write the record; a run of several nodes is no stage's and leaves none."""
        if len(pipeline.nodes) == 1:
            write_text(
                record_path(self._project, self._study, pipeline.nodes[0].name),
                _text(self._record(pipeline.nodes[0], catalog)),
            )

    def _record(self, node: Node, catalog: CatalogProtocol) -> Record:
        seconds = round(time.perf_counter() - self._start, 2)
        commit, clean = commit_of(self._project)
        paths = [path for name in node.outputs if (path := path_of(catalog.get(name)))]
        found = sha256s(paths).items()
        return {
            "node": node.name,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": seconds,
            "commit": commit,
            "clean": clean,
            "environment": _environment(self._project),
            **self._own,
            "outputs": {os.path.relpath(path, self._project): sha256 for path, sha256 in found},
        }


def record_path(project: Path, study: str, node: str) -> Path:
    """Return where the record of a node's last run lies."""
    return project / EVIDENCE / study / "runs" / f"{Path(node).name}.json"


def read_record(project: Path, study: str, node: str) -> Record | None:
    """Return the record of a node's last run, with its environment; None if there is none.

    Raises:
        ValueError: If the record cannot be read, or its environment is not the one it names.
    """
    path = record_path(project, study, node)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    environment = environment_path(project, record["environment"])
    text = environment.read_text(encoding="utf-8") if environment.is_file() else ""
    if _name(text) != record["environment"]:
        raise ValueError(f"{os.path.relpath(environment, project)} is not what {path.name} names")
    own = {key: value for key, value in record.items() if key not in KEYS}
    return {**record, "environment": {**json.loads(text), **own}}


def environment_path(project: Path, name: str) -> Path:
    """Return where an environment of that name lies."""
    return project / EVIDENCE / "environments" / f"{Path(name).name}.json"


def _environment(project: Path) -> str:
    """Write this process's environment if it is new; return its name."""
    text = _text(machine())
    path = environment_path(project, name := _name(text))
    if not path.is_file():
        write_text(path, text)
    return name


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _text(facts: Record) -> str:
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"
