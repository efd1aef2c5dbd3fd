"""A study: its configuration, its catalog and its pipelines, without a data set being made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.project import pipelines, settings
from kedro.io import CatalogConfigResolver
from kedro.pipeline import Node, Pipeline

from seuf.errors import InputError
from seuf.lineage.configuration import BASE, Definitions, definitions

IN_MEMORY = {"{default}": {"type": "MemoryDataset"}}


@dataclass(frozen=True)
class Study:
    """A folder of conf/ on top of conf/base, and the pipelines that it makes."""

    project: Path
    name: str
    config: OmegaConfigLoader
    pipelines: dict[str, Pipeline]

    @cached_property
    def defined(self) -> Definitions:
        """Each key of the configuration, and the file that defines it."""
        return definitions(self.project, self.config)

    @cached_property
    def catalog(self) -> CatalogConfigResolver:
        """The catalog as configuration."""
        return CatalogConfigResolver(self.config["catalog"], default_runtime_patterns=IN_MEMORY)

    def dataset(self, name: str) -> dict[str, Any]:
        """Return the configuration of a data set that DVC can track.

        Raises:
            InputError: If it is in memory, or versioned by Kedro.
        """
        entry = self.catalog.resolve_pattern(name)
        if entry["type"].endswith("MemoryDataset"):
            raise InputError(f"{name!r} is in memory, DVC tracks files: add it to the catalog.")
        if entry.get("versioned"):
            raise InputError(f"{name!r} is versioned by Kedro: remove `versioned`, DVC does it.")
        return entry

    def owner(self, node: Node) -> str:
        """Return the name of the pipeline that holds a node, beside `__default__`."""
        return next(
            name
            for name, pipeline in self.pipelines.items()
            if name != "__default__" and node in pipeline.nodes
        )

    def factory(self, name: str) -> str | None:
        """Return the pattern of the factory that makes a data set, None if it has an own entry."""
        return None if name in self.catalog.config else self.catalog.match_dataset_pattern(name)


def study_names(project: Path) -> list[str]:
    """Return the folders of conf/ that are studies; base, the default study, is the first."""
    studies = sorted(path.parent.name for path in project.glob("conf/*/globals.yml"))
    return [BASE, *(name for name in studies if name != BASE)]


def check_study(project: Path, name: str) -> str:
    """Return the name of a study if it exists.

    Raises:
        InputError: If it does not; with those that do.
    """
    if name not in (known := study_names(project)):
        raise InputError(
            f"There is no study {name!r}: conf/{name}/globals.yml is missing. "
            f"Studies: {', '.join(known)}."
        )
    return name


def load_config(project: Path, name: str) -> OmegaConfigLoader:
    """Return the configuration of a study; InputError if there is none."""
    conf = str(project / "conf")
    return OmegaConfigLoader(conf, env=check_study(project, name), **settings.CONFIG_LOADER_ARGS)


def load_study(project: Path, name: str) -> Study:
    """Return a study with all its pipelines, which depend on its parameters."""
    os.environ["KEDRO_ENV"] = check_study(project, name)
    pipelines.configure("seuf.pipeline_registry")
    return running_study(project, name)


def running_study(project: Path, name: str) -> Study:
    """Return a study with the pipelines that Kedro has at hand: those a run asked for."""
    return Study(project, name, load_config(project, name), dict(pipelines))
