"""What stages write: as the catalog's `metadata: {dvc: ...}` has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import PurePosixPath
from typing import Any

from seuf.kedro_dvc.errors import WorkflowError

Stage = dict[str, Any]
Entries = list[dict[str, Any]]

KINDS = ("outs", "metrics", "plots")
FLAGS = ("cache", "persist", "push", "remote", "desc", "type", "labels")
PLOT = ("x", "y", "x_label", "y_label", "title", "template", "header")


def outputs_of(written: Entries) -> Stage:
    """Return the outputs of a stage, by kind, from the catalog entries that it writes.

    A flag that is null says nothing, as if it were not there.
    """
    found: Stage = {kind: [] for kind in KINDS}
    for entry in written:
        facts, path = for_dvc(entry), entry["filepath"]
        flags = {flag: facts[flag] for flag in (*FLAGS, *PLOT) if facts.get(flag) is not None}
        found[facts.get("kind", "outs")].append({path: flags} if flags else path)
    return {kind: outs for kind, outs in found.items() if outs}


def for_dvc(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a catalog entry says to DVC."""
    return (entry.get("metadata") or {}).get("dvc", {})


def paths_of(stage: Stage) -> list[str]:
    """Return the paths that a stage writes, with placeholders."""
    outs = [out for kind in KINDS for out in stage.get(kind, [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


def check_paths(stages: Mapping[str, Stage]) -> None:
    """Raise if two stages write one path, or one writes inside the folder of another.

    Raises:
        WorkflowError: With the path and both stages.
    """
    owners: dict[str, str] = {}
    for stage, path in _written(stages):
        for other in (path, *map(str, PurePosixPath(path).parents)):
            if other in owners:
                raise WorkflowError(_clash(path, stage, other, owners[other]))
        inside = next((o for o in owners if PurePosixPath(o).is_relative_to(path)), None)
        if inside is not None:
            raise WorkflowError(_clash(inside, owners[inside], path, stage))
        owners[path] = stage


def _clash(path: str, stage: str, other: str, owner: str) -> str:
    if path == other:
        return f"{stage!r} and {owner!r} both write {path}: give one of them another filepath."
    return f"{stage!r} writes {path}, inside {other} of {owner!r}: give it another filepath."


def _written(stages: Mapping[str, Stage]) -> Iterator[tuple[str, str]]:
    for name, stage in stages.items():
        for item in _items(stage.get("matrix", {})):
            full = f"{name}@{'-'.join(item.values())}" if item else name
            for path in paths_of(stage):
                yield full, _filled(path, item)


def _items(matrix: Mapping[str, list[str]]) -> Iterable[dict[str, str]]:
    return [dict(zip(matrix, values, strict=True)) for values in product(*matrix.values())]


def _filled(path: str, item: Mapping[str, str]) -> str:
    for key, value in item.items():
        path = path.replace(f"${{item.{key}}}", value)
    return path
