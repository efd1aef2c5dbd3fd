"""The way back from a model to all that it was made from, read from dvc.lock without DVC."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from seuf.errors import InputError
from seuf.kedro_dvc.generation.outputs import paths_of


class Held(NamedTuple):
    """A file or folder as dvc.lock records it."""

    md5: str
    size: int


class Stage(NamedTuple):
    """A stage: as dvc.lock records its last run, or (without digests) as dvc.yaml wants it.

    Attributes:
        name: As `dvc repro` takes it, `unlearn@seuf_ga`.
        cmd: The command.
        deps: What it read, by path from the project's root.
        outs: What it wrote.
        params: Values by key, by file; of dvc.yaml None for each value.
    """

    name: str
    cmd: str
    deps: dict[str, Held | None]
    outs: dict[str, Held | None]
    params: dict[str, dict[str, Any]]

    @property
    def node(self) -> str:
        """The Kedro node that it runs, or its own name."""
        words = shlex.split(self.cmd)
        return words[words.index("--nodes") + 1] if "--nodes" in words else self.name


def recorded(lock: Path) -> dict[str, Stage]:
    """Return the stages in a dvc.lock by name.

    Raises:
        InputError: If there is no such file, or it is no lock file.
    """
    if not lock.is_file():
        raise InputError(f"{lock} is missing: the study has not run.")
    try:
        stages = yaml.load(lock.read_text(encoding="utf-8"), yaml.CSafeLoader)["stages"]
        return {name: _of_lock(name, stage) for name, stage in stages.items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{lock} cannot be read: {error}".splitlines()[0]) from error


def wanted(file: Path) -> dict[str, Stage]:
    """Return the stages that a generated dvc.yaml asks for, each item of a matrix by itself."""
    stages = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)["stages"]
    return {one.name: one for name, stage in stages.items() for one in _items(name, stage)}


def makers(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return the stage that writes each path."""
    return {path: stage for stage in stages.values() for path in stage.outs}


def maker_of(path: str, made_by: Mapping[str, Stage]) -> tuple[str, Stage] | None:
    """Return the output that a path is or lies in, and the stage that writes it."""
    for one in (path, *map(str, PurePosixPath(path).parents)):
        if one in made_by:
            return one, made_by[one]
    return None


def behind(paths: Iterable[str], stages: Mapping[str, Stage]) -> list[Stage]:
    """Return the stages that the paths come from, in the order of the lineage.

    Raises:
        InputError: If no stage writes one of the paths.
    """
    made_by, found = makers(stages), dict[str, Stage]()

    def visit(path: str) -> None:
        maker = maker_of(path, made_by)
        if maker is None or maker[1].name in found:
            return
        for dep in maker[1].deps:
            visit(dep)
        found[maker[1].name] = maker[1]

    for path in paths:
        if path not in made_by:
            raise InputError(f"dvc.lock records no stage that writes {path}.")
        visit(path)
    return list(found.values())


def broken_edges(walked: Iterable[Stage], stages: Mapping[str, Stage]) -> Iterator[str]:
    """Yield in words each input that is not what the stage that writes it has left."""
    made_by = makers(stages)
    for stage in walked:
        for path, held in stage.deps.items():
            maker = made_by.get(path)
            if maker is not None and maker.outs[path] != held:
                yield f"{stage.name} read another {path} than {maker.name} has written"


def edges(walked: Iterable[Stage], stages: Mapping[str, Stage]) -> int:
    """Return how many inputs of these stages are outputs of others."""
    made_by = makers(stages)
    return sum(path in made_by for stage in walked for path in stage.deps)


def unlike(stage: Stage, declared: Mapping[str, Stage]) -> str | None:
    """Return in words how a recorded stage differs from what dvc.yaml wants; None if not at all."""
    other = declared.get(stage.name)
    if other is None:
        return f"dvc.yaml has no stage {stage.name}"
    pairs: list[tuple[str, Any, Any]] = [
        ("command", stage.cmd, other.cmd),
        ("inputs", set(stage.deps), set(other.deps)),
        ("outputs", set(stage.outs), set(other.outs)),
        ("parameters", _keys(stage), _keys(other)),
    ]
    return next((f"{what} of {stage.name}" for what, one, two in pairs if one != two), None)


def changed_values(stage: Stage, project: Path) -> Iterator[str]:
    """Yield in words each parameter whose value in its file is not the recorded one."""
    for file, values in stage.params.items():
        there = yaml.load((project / file).read_text(encoding="utf-8"), yaml.CSafeLoader)
        for key, value in values.items():
            if _at(there, key) != value:
                yield f"{key} in {file} is not what {stage.name} ran with"


def _of_lock(name: str, stage: Mapping[str, Any]) -> Stage:
    deps, outs = (
        {one["path"]: Held(one["md5"], one.get("size", 0)) for one in stage.get(kind, [])}
        for kind in ("deps", "outs")
    )
    return Stage(name, stage["cmd"], dict(deps), dict(outs), stage.get("params", {}))


def _items(name: str, stage: Mapping[str, Any]) -> Iterator[Stage]:
    matrix = stage.get("matrix", {})
    for values in product(*matrix.values()):
        item = dict(zip(matrix, values, strict=True))
        yield _declared("@".join([name, "-".join(values)] if item else [name]), stage, item)


def _declared(name: str, stage: Mapping[str, Any], item: Mapping[str, str]) -> Stage:
    def filled(text: str) -> str:
        for key, value in item.items():
            text = text.replace(f"${{item.{key}}}", value)
        return text

    params: dict[str, dict[str, Any]] = {}
    for entry in stage.get("params", []):
        for file, keys in entry.items():
            params.setdefault(file, {}).update(dict.fromkeys(map(filled, keys or [])))
    return Stage(
        name,
        filled(stage["cmd"]),
        dict.fromkeys(map(filled, stage.get("deps", []))),
        dict.fromkeys(map(filled, paths_of(dict(stage)))),
        params,
    )


def _keys(stage: Stage) -> dict[str, set[str]]:
    return {file: set(keys) for file, keys in stage.params.items() if keys}


def _at(content: Any, key: str) -> Any:
    if isinstance(content, dict) and key in content:
        return content[key]
    for part in key.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
