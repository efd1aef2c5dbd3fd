"""What is audited: a method of a study, and the facts that several checks ask for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seuf.audit.lineage import Stage, behind, makers, recorded
from seuf.datasets.checkpoint import REFERENCE, source_of
from seuf.errors import InputError
from seuf.kedro_dvc.generation.guard import GUARD, stamp
from seuf.kedro_dvc.generation.outputs import for_dvc
from seuf.kedro_dvc.hashing import Digests, digests
from seuf.kedro_dvc.project.study import Study, dvc_file

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
        from seuf.moe.models import checkpoint_of

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
