"""The audited method and the stages behind its delta, read from dvc.lock.

DVC's own cache of the workspace's state is not trusted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from kedro_dvc.disk import LockedFile, read_lock
from kedro_dvc.evidence import EVIDENCE, read_erasures
from kedro_dvc.files import WorkflowError, files_of
from kedro_dvc.hashing import Digests, digests
from kedro_dvc.project import Study, dvc_file, for_dvc
from kedro_dvc.stages import GUARD, guard_file, node_of
from seuf.datasets.checkpoint import REFERENCE, source_of
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.audit.weights import WeightsChecked
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Experts

CONFIDENTIAL = ("forget_set", "questions", "pretraining_texts", "passages", "reference_texts")
OF_METHOD = ("delta", "scores", "timing", "chosen_layer", "trials")
REPORTS = ("comparison", "metrics", "headline", "report")


class Stage(NamedTuple):
    """A stage: as dvc.lock records its last run, or (without digests) as dvc.yaml declares it.

    Attributes:
        name: As `dvc repro` takes it, `unlearn@seuf_ga`.
        cmd: The command.
        deps: What it reads, by path from the project's root.
        outs: What it writes, likewise.
        params: By file, values by key; in a declared stage every value is None.
    """

    name: str
    cmd: str
    deps: dict[str, LockedFile | None]
    outs: dict[str, LockedFile | None]
    params: dict[str, dict[str, Any]]

    @property
    def node(self) -> str:
        """The Kedro node that it runs, or its own name."""
        return node_of({"cmd": self.cmd}, self.name)


def recorded_stages(lock: Path) -> dict[str, Stage]:
    """Return the stages in a dvc.lock by name.

    Raises:
        InputError: If there is no such file, or it is not a valid lock file.
    """
    name = os.path.relpath(lock)
    if not lock.is_file():
        raise InputError(f"{name} is missing: the study has not run.")
    try:
        stages = read_lock(lock)
    except WorkflowError as error:
        raise InputError(str(error)) from error
    if not stages or not all(stage.cmd for stage in stages.values()):
        raise InputError(f"{name} cannot be read: it has no {'command' if stages else 'stages'}.")
    for stage_name, stage in stages.items():
        words = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
        values = stage.params.values() if isinstance(stage.params, dict) else [stage.params]
        if not (
            isinstance(words, list)
            and all(isinstance(one, str) for one in words)
            and all(isinstance(one, dict) for one in values)
            and all(isinstance(key, str) for one in values for key in one)
        ):
            raise InputError(f"{name} cannot be read: {stage_name} is not a stage that has run.")
    return {
        name: Stage(name, stage.cmd, dict(stage.deps), dict(stage.outs), stage.params)
        for name, stage in stages.items()
    }


def producers(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return the stage that writes each path."""
    return {path: stage for stage in stages.values() for path in stage.outs}


def upstream(paths: Iterable[str], stages: Mapping[str, Stage]) -> list[Stage]:
    """Return the stages that produce the paths, each after the stages that it depends on.

    Raises:
        InputError: If no stage writes one of the paths.
    """
    producer_of, ordered, seen = producers(stages), dict[str, Stage](), set[str]()

    def visit(path: str) -> None:
        candidates = (path, *map(str, PurePosixPath(path).parents))  # the output may be a folder
        stage = next((producer_of[one] for one in candidates if one in producer_of), None)
        if stage is None or stage.name in seen:  # a forged lock can have a cycle
            return
        seen.add(stage.name)
        for dependency in stage.deps:
            visit(dependency)
        ordered[stage.name] = stage

    for path in paths:
        if path not in producer_of:
            raise InputError(f"dvc.lock records no stage that writes {path}.")
        visit(path)
    return list(ordered.values())


@dataclass(frozen=True)
class AuditedMethod:
    """A method of a study that has run; each fact is read on first use.

    Attributes:
        study: The study.
        method: A name from its table of methods.
        checkpoint: Folder of an exported checkpoint to compare with base and delta.
    """

    study: Study
    method: str
    checkpoint: Path | None = None

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
        """Raise unless the study keeps deltas: one that only measures spread does not."""
        nodes = self.study.pipelines["__default__"].nodes
        if not any(f"{self.method}.delta" in node.outputs for node in nodes):
            raise InputError(
                f"The study {self.study.name!r} keeps no deltas, as it only measures how scores "
                "spread: there is nothing to audit."
            )

    @property
    def lock(self) -> Path:
        """The study's dvc.lock."""
        return (self.project / dvc_file(self.study.name)).with_suffix(".lock")

    @cached_property
    def recorded(self) -> dict[str, Stage]:
        """All stages in the study's dvc.lock but the guard, which `check_lock` replaces."""
        stages, guard = recorded_stages(self.lock), guard_file(self.study.name)
        for stage in stages.values():
            stage.deps.pop(guard, None)
        return {name: stage for name, stage in stages.items() if name != GUARD}

    @cached_property
    def lineage(self) -> list[Stage]:
        """The stages that the delta comes from."""
        return upstream([self.path("delta")], self.recorded)

    @cached_property
    def delta(self) -> Delta:
        """The method's delta."""
        from seuf.moe.deltas import Delta

        return Delta.load(self.project / self.path("delta"))

    @property
    def experts(self) -> Experts:
        """The (layer, expert) pairs that the delta names as its own."""
        return [(layer, expert) for layer, expert in self.delta.about.get("experts", [])]

    @cached_property
    def weights(self) -> WeightsChecked:
        """The comparison of base, delta and exported checkpoint."""
        from seuf.audit.weights import check_weights
        from seuf.unlearning.settings import Method

        method = Method.model_validate(self.settings)
        return check_weights(self.base[1], self.delta, method, self.experts, self.checkpoint)

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages that the delta comes from, then those that score it and report the scores."""
        scored = upstream([self.path("scores")], self.recorded)
        producer_of = producers(self.recorded)
        reporting = [producer_of[p] for p in map(self.path, REPORTS) if p in producer_of]
        stages = [*self.lineage, *scored, *reporting]
        return list({stage.name: stage for stage in stages}.values())

    def path(self, name: str) -> str:
        """Return a data set's path from the project's root; those of `OF_METHOD` are its own."""
        own = f"{self.method}.{name}" if name in OF_METHOD else name
        return str(self.study.dataset(own)["filepath"])

    def read(self, name: str) -> Any:
        """Return the content of a JSON or JSON lines data set."""
        text = (self.project / self.path(name)).read_text(encoding="utf-8")
        if self.path(name).endswith(".jsonl"):
            return [json.loads(line) for line in text.split("\n") if line]
        return json.loads(text)

    def load(self, name: str) -> Any:
        """Return a data set as the pipelines load it; a method's own by its full name."""
        from kedro.io import AbstractDataset

        return AbstractDataset.from_config(name, self.study.dataset(name)).load()

    def exists(self, name: str) -> bool:
        """Return whether a data set lies in the workspace."""
        return (self.project / self.path(name)).exists()

    @cached_property
    def digests(self) -> dict[str, Digests]:
        """Digests of all present files and folders that the stages read or wrote, by path."""
        paths = {path for stage in self.stages for path in (*stage.deps, *stage.outs)}
        read = digests(self.project / path for path in sorted(paths))
        return {path: read[self.project / path] for path in paths if self.project / path in read}

    def stamps(self) -> dict[str, tuple[int, ...]]:
        """Return (inode, size, mtime, links, ctime) of each audited file, which writing changes.

        A new hard link to a file changes only the number of links and ctime.
        """
        paths = {path for stage in self.stages for path in (*stage.deps, *stage.outs)}
        paths |= {os.path.relpath(self.lock, self.project), f"{EVIDENCE}/{self.study.name}"}
        files = (file for path in paths for file in files_of(self.project / path))
        stats = {os.path.relpath(file, self.project): file.stat() for file in files}
        return {
            name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_nlink, stat.st_ctime_ns)
            for name, stat in stats.items()
        }

    @cached_property
    def confidential(self) -> set[str]:
        """Paths of the data sets with texts to forget: these may be erased."""
        return confidential_paths(self.study)

    @cached_property
    def erased(self) -> dict[str, str]:
        """For each erased output, by path, when and for which request it was erased, in words.

        Raises:
            InputError: If the record cannot be read.
        """
        from seuf.audit.ledger import read_ledger, state
        from seuf.audit.requests import requests_of_study

        try:
            erasures = read_erasures(self.project, self.study.name)
        except WorkflowError as error:
            raise InputError(str(error)) from error
        known = state(read_ledger(self.project)).status if erasures else {}
        texts = dict[str, str]()
        for erasure in erasures:
            if erasure.purpose in known:
                purpose = f"for request {erasure.purpose}"
            elif erasure.purpose is not None:
                purpose = f"for {erasure.purpose!r}, which is not a request in the ledger"
            else:
                of_study = ", ".join(requests_of_study(self.project, self.study.name))
                purpose = "for no request"
                purpose += f" that was named; the study's are: {of_study}" if of_study else ""
            texts |= dict.fromkeys(erasure.paths, f"erased on {erasure.date} {purpose}")
        return texts

    def why_missing(self, path: str) -> str:
        """Return why a file is missing, as the end of a sentence that begins with its name."""
        if path in self.erased:
            return f"was {self.erased[path]}"
        if path in self.confidential:
            return "is missing, and no erasure is recorded: `dvc pull` restores what a remote has"
        return "is missing: `dvc pull` restores what a remote has"

    @cached_property
    def base(self) -> tuple[str, Path]:
        """The base model's name, and the folder of its checkpoint.

        The name of a model outside the project is its folder's: a full path may name a person.

        Raises:
            InputError: If it is missing.
        """
        path = self.project / self.path("base_model")
        if not (path / REFERENCE).is_file():
            if not path.is_dir():
                raise InputError(
                    f"{self.path('base_model')} is missing: `dvc pull` restores it if a remote has "
                    f"it, `kedro dvc run --env {self.study.name}` makes it."
                )
            return path.name, Path(os.path.relpath(path))
        from seuf.moe.loading import checkpoint_of

        source = source_of(json.loads((path / REFERENCE).read_text(encoding="utf-8")))
        name = Path(source.path).name if Path(source.path).is_absolute() else source.path
        return name, checkpoint_of(source)


def confidential_paths(study: Study) -> set[str]:
    """Return the paths of a study's data sets that contain texts to forget.

    These are the prepared sets, and every data set that the catalog keeps in a remote of its own.
    """
    pipeline = study.pipelines["__default__"]
    written = {name for node in pipeline.nodes for name in node.outputs}
    read = [name for name in pipeline.inputs() if not name.startswith("param")]
    entries = {name: study.catalog.resolve_pattern(name) for name in (*written, *read)}
    kept_apart = {name for name, entry in entries.items() if "remote" in for_dvc(entry)}
    confidential = kept_apart | written.intersection(CONFIDENTIAL)
    return {entries[name]["filepath"] for name in confidential if "filepath" in entries[name]}
