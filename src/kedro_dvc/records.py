"""The record that each run of a stage leaves, and the check that its code was not edited meanwhile.

DVC records what a stage read and wrote, but not when it ran, how long, where and from which commit.
A run of one node, which is what a stage is, leaves `evidence/<study>/runs/<node>.json`, to be
committed beside dvc.lock. It names the outputs by SHA-256, so that it belongs to these bytes and no
others, and holds the duration and the peak memory. Package versions and hardware are in
`evidence/environments`, one file for all runs that share them, named after its own digest.

A record is kept when the stage runs again and nothing is new: the same outputs, from the code and
parameters of the recorded commit. An output that differs from run to run, as it holds seconds, says
so in the catalog (`metadata: {dvc: {reproducible: false}}`), and records leave it out.

A stage fails if code or configuration that it depends on is edited while it runs (see `watched`),
or if one of its input files is written, by size, time and inode, as DVC itself judges. Both are
checked after the node has run and after its outputs are saved. An edit between that and DVC's own
reading goes unnoticed.
"""

from __future__ import annotations

import json
import os
import platform
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
from kedro.utils import find_kedro_project

from kedro_dvc.configuration import BASE
from kedro_dvc.dependencies import (
    check_repository,
    commit_of,
    edited_since_start,
    keep_sources,
    watched_by,
)
from kedro_dvc.evidence import (
    Record,
    digest_of,
    environment_path,
    read_record,
    record_path,
    text_of,
)
from kedro_dvc.files import WorkflowError, path_of, stamp, write_text
from kedro_dvc.hashing import sha256s
from kedro_dvc.resources import MemoryPeak

Inputs = Mapping[str, Any]


class RunRecords:
    """Writes the record of a stage that has run, unless its code was edited meanwhile.

    Args:
        facts: Returns what else the project wants to record, by name, given the node's inputs.
    """

    def __init__(self, facts: Callable[[Inputs], Record] = lambda inputs: {}) -> None:
        self._facts = facts
        if project := find_kedro_project(Path.cwd()):
            keep_sources(project)  # no node is imported yet

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the study."""
        self._project, self._study = Path(context.project_path), context.env or BASE

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Note the time, the commit and the inputs, if it is the run of one node.

        Raises:
            WorkflowError: If there is a repository that git cannot read.
        """
        self._start, self._started = time.perf_counter(), datetime.now(UTC)
        self._node = pipeline.nodes[0] if len(pipeline.nodes) == 1 else None
        self._memory = MemoryPeak()
        if self._node is None:
            return
        check_repository(self._project)
        self._commit, self._clean = commit_of(self._project)
        watched = watched_by(self._project, self._study, self._node.name)
        data = watched.data if watched else []
        self._inputs = {path: stamp(self._project / path) for path in data}
        self._memory.start()

    @hook_impl
    def after_node_run(self, inputs: dict[str, Any]) -> None:
        """Fail before outputs are saved if code or inputs changed; collect the project's facts."""
        if self._node is not None:
            self._check_unedited(self._node)
            self._own = self._facts(inputs)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Stop measuring."""
        if self._node is not None:
            self._memory.stop()

    @hook_impl
    def after_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Write the record, unless the present one says the same."""
        if self._node is None:
            return
        self._memory.stop()
        self._check_unedited(self._node)
        seconds = round(time.perf_counter() - self._start, 2)
        datasets = [catalog.get(name) for name in self._node.outputs]
        paths = [path for one in datasets if (path := path_of(one)) and _is_reproducible(one)]
        outputs = {os.path.relpath(p, self._project): s for p, s in sha256s(paths).items()}
        if is_recorded(self._project, self._study, self._node.name, outputs):
            return
        record = {
            "node": self._node.name,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": seconds,
            "memory": {"resident": self._memory.resident, "on_device": self._memory.on_device},
            "commit": self._commit,
            "clean": self._clean,
            "environment": _write_environment(self._project),
            "outputs": outputs,
            **self._own,
        }
        write_text(record_path(self._project, self._study, self._node.name), text_of(record))

    def _check_unedited(self, node: Node) -> None:
        """Raise if something that the stage depends on has changed since it began."""
        files = edited_since_start(self._project, self._study, node.name)
        for path, before in self._inputs.items():
            if stamp(self._project / path) != before:
                files.append(path)
        if files:
            raise WorkflowError(
                f"{', '.join(files)}: edited since {node.name} began, which ran with what was "
                "there before. Nothing is recorded: run the stage again."
            )


def is_recorded(project: Path, study: str, node: str, outputs: dict[str, str]) -> bool:
    """Return whether a record has these outputs, from what the stage depends on now."""
    try:
        record = read_record(project, study, node)
    except (ValueError, KeyError, TypeError):
        return False
    watched = watched_by(project, study, node)
    if record is None or watched is None or not record["clean"]:
        return False
    same = (record["node"], record["outputs"]) == (node, outputs)
    return same and not watched.edited_since(record["commit"], project)


def take_record(project: Path, name: str, text: str, commit: tuple[str | None, bool]) -> None:
    """Write what a run on another machine recorded, where there was no repository.

    Args:
        project: The project's root.
        name: The path of a record or of an environment, from the root.
        text: Its content there.
        commit: The commit of the code that ran, and whether all of it was committed.
    """
    path = project / name
    if path.parent.name != "runs":
        if not path.is_file():
            write_text(path, text)
        return
    record = json.loads(text)
    if not is_recorded(project, path.parent.parent.name, record["node"], record["outputs"]):
        write_text(path, text_of({**record, "commit": commit[0], "clean": commit[1]}))


def _write_environment(project: Path) -> str:
    """Write this process's environment if it is new; return its name."""
    text = text_of(machine())
    path = environment_path(project, name := digest_of(text))
    if not path.is_file():
        write_text(path, text)
    return name


@cache
def machine() -> dict[str, Any]:
    """Return this process's environment: Python, processor and package versions."""
    packages = {one.metadata["Name"]: one.version for one in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _is_reproducible(dataset: object) -> bool:
    metadata = getattr(dataset, "metadata", None) or {}
    return bool((metadata.get("dvc") or {}).get("reproducible", True))
