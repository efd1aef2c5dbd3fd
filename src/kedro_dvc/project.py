"""A Kedro project as DVC needs it: its studies, and the source files that a module can run.

A study is a folder of conf/ on top of conf/base, with the pipelines it makes. Reading a study
creates no data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import grimp
import yaml
from kedro.framework import project as kedro_project
from kedro.framework.project import pipelines, settings
from kedro.framework.session import KedroSession
from kedro.io import CatalogConfigResolver
from kedro.pipeline import Node, Pipeline

from kedro_dvc.configuration import BASE, Layers, StudyConfigLoader, check_yaml, definitions
from kedro_dvc.files import WorkflowError, write_text

HIDDEN = "/studies/*/dvc.yaml"  # the line in .dvcignore that hides studies not run in this clone


@dataclass(frozen=True)
class Study:
    """A folder of conf/ on top of conf/base, and the pipelines it makes."""

    project: Path
    name: str
    config: StudyConfigLoader
    pipelines: dict[str, Pipeline]

    @cached_property
    def defined(self) -> dict[str, Layers]:
        """The keys of the configuration by kind, each with the file that defines it."""
        return definitions(self.project, self.config)

    @cached_property
    def catalog(self) -> CatalogConfigResolver:
        """The catalog as configuration."""
        in_memory = {"{default}": {"type": "MemoryDataset"}}
        return CatalogConfigResolver(self.config["catalog"], default_runtime_patterns=in_memory)

    def dataset(self, name: str) -> dict[str, Any]:
        """Return the configuration of a data set that DVC can track.

        Raises:
            WorkflowError: If it is in memory or versioned by Kedro.
        """
        entry = self.catalog.resolve_pattern(name)
        if entry["type"].endswith("MemoryDataset"):
            raise WorkflowError(f"{name!r} is in memory; DVC tracks files: add it to the catalog.")
        if entry.get("versioned"):
            raise WorkflowError(f"{name!r} is versioned by Kedro: remove `versioned`, DVC does it.")
        return entry

    def owner(self, node: Node) -> str:
        """Return the pipeline that holds a node, other than `__default__`."""
        return next(
            name
            for name, pipeline in self.pipelines.items()
            if name != "__default__" and node in pipeline.nodes
        )

    def not_reproducible(self) -> set[str]:
        """Return the outputs that a second run makes with other bytes; no record names them."""
        entries = map(self.dataset, self.pipelines["__default__"].all_outputs())
        return {one["filepath"] for one in entries if not for_dvc(one).get("reproducible", True)}

    def factory(self, name: str) -> str | None:
        """Return the factory pattern that a data set matches; None if it has its own entry."""
        return None if name in self.catalog.config else self.catalog.match_dataset_pattern(name)


def for_dvc(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a catalog entry that is meant for DVC."""
    return (entry.get("metadata") or {}).get("dvc", {})


def study_names(project: Path) -> list[str]:
    """Return the folders of conf/ that are studies, base first."""
    studies = sorted(path.parent.name for path in project.glob("conf/*/globals.yml"))
    return [BASE, *(name for name in studies if name != BASE)]


def synced_studies(project: Path) -> list[str]:
    """Return base and the other studies that have a dvc.yaml.

    DVC reads every dvc.yaml for every command, about 10 ms a stage: a study costs nothing until
    `kedro dvc sync --env <study>` writes its file.
    """
    return [
        name
        for name in study_names(project)
        if name == BASE or (project / dvc_file(name)).is_file()
    ]


def check_study(project: Path, name: str) -> str:
    """Return the name of a study if it exists and has a folder of its own for its artifacts.

    Raises:
        WorkflowError: If it does not exist, with those that do; if its `data_root` is missing,
            that of base, or outside the project; or if its globals have a key that nothing reads
            and that resembles one of base's.
    """
    if name not in (known := study_names(project)):
        if name == _globals(project, BASE).get("study"):
            raise WorkflowError(
                f"{name!r} is the name of the default study: use --env {BASE}, or no --env."
            )
        raise WorkflowError(
            f"There is no study {name!r}: conf/{name}/globals.yml is missing. "
            f"Studies: {', '.join(known)}."
        )
    globals_of = {study: _globals(project, study) for study in (BASE, name)}
    base, own = (globals_of[study].get("data_root") for study in (BASE, name))
    if name != BASE and base is not None and own in (None, base):
        raise WorkflowError(
            f"conf/{name}/globals.yml has no data_root of its own: the study would overwrite the "
            f"artifacts of {BASE}. Add `data_root: studies/{name}/data`."
        )
    if own is not None and not (project / own).resolve().is_relative_to(project.resolve()):
        raise WorkflowError(
            f"conf/{name}/globals.yml: data_root {own} lies outside the project, or is a link that "
            "leads outside; DVC tracks outputs only inside. To use another disk, move the cache, "
            "`dvc cache dir PATH`, and make outputs links, `dvc config cache.type symlink`."
        )
    _check_globals_are_read(project, name, globals_of[BASE], globals_of[name])
    return name


def _check_globals_are_read(
    project: Path, study: str, base: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Raise a `WorkflowError` for a misspelt global: one that resembles base's and is never read.

    The study would silently have base's value.
    """
    known = [str(key) for key in base]
    nearest = {key: get_close_matches(key, known) for key in map(str, own) if key not in known}
    if not any(nearest.values()):
        return
    folders = {project / "conf" / one for one in (BASE, study)}
    files = [file for folder in folders for file in folder.rglob("*.y*ml")]
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    for key, near in nearest.items():
        if near and not re.search(rf"globals:\s*{re.escape(key)}\b", text):
            raise WorkflowError(
                f"conf/{study}/globals.yml: nothing reads {key!r}; nearest: {', '.join(near)}."
            )


def _globals(project: Path, study: str) -> dict[str, Any]:
    """Return a study's own globals; nothing if they are missing or cannot be read."""
    path = project / "conf" / study / "globals.yml"
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (FileNotFoundError, yaml.YAMLError):  # `check_yaml` reports it
        return {}
    return content if isinstance(content, dict) else {}


def dvc_file(study: str) -> str:
    """Return the path of a study's dvc.yaml from the project's root."""
    return "dvc.yaml" if study == BASE else f"studies/{study}/dvc.yaml"


def take_part(project: Path, study: str) -> None:
    """Make a study visible to DVC's commands if .dvcignore hides studies not run in this clone.

    Without hiding, `dvc status` in a fresh clone lists every file of every recorded study as
    missing. The file written here is not meant to be committed.
    """
    hiding, own = project / ".dvcignore", (project / dvc_file(study)).parent / ".dvcignore"
    if study == BASE or own.exists() or not hiding.is_file():
        return
    if HIDDEN in hiding.read_text(encoding="utf-8").splitlines():
        write_text(own, "!/dvc.yaml\n")


def load_config(project: Path, name: str) -> StudyConfigLoader:
    """Return the configuration of a study.

    Raises:
        WorkflowError: If there is none, or the project's settings allow overrides that are not
            committed.
    """
    arguments = {"base_env": BASE, **settings.CONFIG_LOADER_ARGS}
    if not issubclass(settings.CONFIG_LOADER_CLASS, StudyConfigLoader):
        raise WorkflowError("settings.py must set CONFIG_LOADER_CLASS to StudyConfigLoader.")
    if arguments.get("default_run_env") != BASE:
        raise WorkflowError(
            f"settings.py must set default_run_env to {BASE!r} in CONFIG_LOADER_ARGS: conf/local "
            "is not committed, so a result could not be traced to what it overrides."
        )
    return settings.CONFIG_LOADER_CLASS(
        str(project / "conf"), env=check_study(project, name), **arguments
    )


def load_study(project: Path, name: str) -> Study:
    """Return a study with all its pipelines, after the checks of the project's own hooks."""
    config = load_config(project, name)
    check_yaml(project, config)
    session = KedroSession.create(project, env=name)
    session.load_context()
    session.close()
    os.environ["KEDRO_ENV"] = name
    pipelines.configure(f"{package()}.pipeline_registry")
    return Study(project, name, config, dict(pipelines))


def source_files(modules: Iterable[str]) -> list[str]:
    """Return the files of modules and of all they import, from the project's root.

    Modules of other packages are left out. Imports inside functions count, those under
    `TYPE_CHECKING` do not. The `__init__.py` of a parent package counts only if it is imported by
    name.
    """
    ours = {module for module in modules if module.partition(".")[0] == package()}
    return sorted(source_file(module) for module in ours.union(*map(_imported_by, ours)))


def wiring_files(modules: Iterable[str], functions: Iterable[str]) -> set[str]:
    """Return the files of the modules that wire nodes, and of all they import.

    Imports of the modules that hold the nodes' functions are not followed: they are no wiring.
    """
    ahead, found = set(modules), set()
    while ahead:
        found |= ahead
        imported = set().union(*map(_graph().find_modules_directly_imported_by, ahead))
        ahead = imported - found - set(functions)
    return set(map(source_file, found))


def source_file(module: str) -> str:
    """Return the file of a module of the project, from the project's root."""
    path = Path("src", *module.split("."))
    return str(path / "__init__.py" if _graph().find_children(module) else f"{path}.py")


def package() -> str:
    """Return the name of the project's package."""
    name = kedro_project.PACKAGE_NAME
    assert name is not None  # Kedro has set it
    return name


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(package(), exclude_type_checking_imports=True, cache_dir=None)


@cache
def _imported_by(module: str) -> set[str]:
    return _graph().find_upstream_modules(module)
