"""What one check of an audit has found.

The way back from a model to all that it was made from, read from dvc.lock without DVC.

What is audited: a method of a study, and the facts that several checks ask for.

The runs of a study as their records tell of them.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from kedro_dvc.hashing import Digests, digests
from kedro_dvc.project import Study, dvc_file
from kedro_dvc.records import read_record
from kedro_dvc.stages import GUARD, for_dvc, paths_of, stamp
from seuf.datasets.checkpoint import REFERENCE, source_of
from seuf.inputs import InputError

PASS, FAIL, NOTE = "PASS", "FAIL", "NOTE"


class Check(NamedTuple):
    """One line of an audit.

    Attributes:
        name: What was looked at, one or two words.
        result: `PASS`, `FAIL`, or `NOTE` for what could not be looked at and need not be.
        text: What was found; of a failure its cause, with the file or tensor.
    """

    name: str
    result: str
    text: str


def passed(name: str, text: str) -> Check:
    """Return that something is as it should be."""
    return Check(name, PASS, text)


def failed(name: str, text: str) -> Check:
    """Return that something is not as it should be."""
    return Check(name, FAIL, text)


def noted(name: str, text: str) -> Check:
    """Return that something could not be looked at, though nothing says that it is wrong."""
    return Check(name, NOTE, text)


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


CONFIDENTIAL = ("forget_set", "questions", "pretraining_texts", "passages", "reference_texts")
REPORTS = ("comparison", "metrics", "report")


@dataclass(frozen=True)
class Subject:
    """A method of a study that has run; each fact is found when it is first asked for."""

    study: Study
    method: str

    @property
    def project(self) -> Path:
        """The project's root, which is also the working directory."""
        return self.study.project

    @property
    def settings(self) -> dict[str, Any]:
        """The method's row in the table of methods.

        Raises:
            InputError: If the study has no such method.
        """
        methods = self.study.config["parameters"]["methods"]
        if self.method not in methods:
            raise InputError(
                f"The study {self.study.name!r} has no method {self.method!r}; "
                f"it has {', '.join(methods)}."
            )
        return dict(methods[self.method])

    def require_delta(self) -> None:
        """Raise unless the study keeps a delta of each method: one of repetitions does not."""
        nodes = self.study.pipelines["__default__"].nodes
        if not any(f"{self.method}.delta" in node.outputs for node in nodes):
            raise InputError(
                f"The study {self.study.name!r} keeps no deltas, as it only measures how scores "
                "spread: there is nothing to audit."
            )

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """All that the study's dvc.lock records, but for the guard, whose work is a check here."""
        stages, mark = recorded(self.lock), stamp(self.study.name)
        for stage in stages.values():
            stage.deps.pop(mark, None)
        return {name: stage for name, stage in stages.items() if name != GUARD}

    @property
    def lock(self) -> Path:
        """The study's dvc.lock."""
        return (self.project / dvc_file(self.study.name)).with_suffix(".lock")

    @cached_property
    def lineage(self) -> list[Stage]:
        """The stages behind the delta."""
        return behind([self.path("delta")], self.stages)

    @cached_property
    def walked(self) -> list[Stage]:
        """The stages behind the delta, then those that score it, and that report all scores."""
        scored = behind([self.path("scores")], self.stages)
        made_by = makers(self.stages)
        reporting = [made_by[p] for p in map(self.path, REPORTS) if p in made_by]
        every = [*self.lineage, *scored, *reporting]
        return list({stage.name: stage for stage in every}.values())

    def path(self, name: str) -> str:
        """Return where a data set lies, from the project's root; the method's own by its kind."""
        own = f"{self.method}.{name}" if name in ("delta", "scores", "timing") else name
        return str(self.study.dataset(own)["filepath"])

    def read(self, name: str) -> Any:
        """Return a data set that is JSON, or JSON lines."""
        text = (self.project / self.path(name)).read_text(encoding="utf-8")
        if self.path(name).endswith(".jsonl"):
            return [json.loads(line) for line in text.splitlines()]
        return json.loads(text)

    def here(self, name: str) -> bool:
        """Return whether a data set lies in the workspace."""
        return (self.project / self.path(name)).exists()

    @cached_property
    def digests(self) -> dict[str, Digests]:
        """Digests of all that the walked stages read and wrote and that is here, by path."""
        paths = {path for stage in self.walked for path in (*stage.deps, *stage.outs)}
        found = digests(self.project / path for path in sorted(paths))
        return {str(path.relative_to(self.project)): one for path, one in found.items()}

    @cached_property
    def confidential(self) -> set[str]:
        """Paths of data sets that hold what is to be forgotten: they may be erased."""
        return confidential(self.study)

    @cached_property
    def base(self) -> tuple[str, Path]:
        """The base model's name, and the folder in which its checkpoint lies.

        Raises:
            InputError: If it is not here.
        """
        path = self.project / self.path("base_model")
        if not (path / REFERENCE).is_file():
            if not path.is_dir():
                raise InputError(f"{self.path('base_model')} is not here: `dvc pull` brings it.")
            return path.name, Path(os.path.relpath(path))
        from seuf.moe.loading import checkpoint_of

        source = source_of(json.loads((path / REFERENCE).read_text(encoding="utf-8")))
        return source.path, checkpoint_of(source)


def confidential(study: Study) -> set[str]:
    """Return the paths of the data sets of a study that hold what is to be forgotten.

    Those are the prepared sets, and what the catalog keeps in a remote of its own.
    """
    whole = study.pipelines["__default__"]
    written = {name for node in whole.nodes for name in node.outputs}
    read = [name for name in whole.inputs() if not name.startswith("param")]
    entries = {name: study.catalog.resolve_pattern(name) for name in (*written, *read)}
    kept_apart = {name for name, entry in entries.items() if "remote" in for_dvc(entry)}
    named = kept_apart | written.intersection(CONFIDENTIAL)
    return {entries[name]["filepath"] for name in named if "filepath" in entries[name]}


def recorded_runs(project: Path, study: str) -> list[dict[str, Any]]:
    """Return the records of the stages in a study's dvc.lock, oldest first, each with its inputs.

    Raises:
        InputError: If the study has not run, or a record is not what it should be.
    """
    stages = recorded((project / dvc_file(study)).with_suffix(".lock"))
    found = []
    for stage in stages.values():
        try:
            record = read_record(project, study, stage.node)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"The record of {stage.name} cannot be read: {error}") from error
        if record is not None:
            inputs = {path: held.md5 for path, held in stage.deps.items() if held is not None}
            found.append({**record, "stage": stage.name, "inputs": inputs})
    return sorted(found, key=lambda record: record["started"])
