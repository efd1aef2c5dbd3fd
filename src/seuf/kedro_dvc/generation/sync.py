"""dvc.yaml on disk: written from the project, or held against it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from seuf.kedro_dvc.files import write_text
from seuf.kedro_dvc.generation.outputs import Stage, for_dvc
from seuf.kedro_dvc.generation.stages import stages
from seuf.kedro_dvc.project.configuration import BASE
from seuf.kedro_dvc.project.study import Study, dvc_file, load_study

HEADER = """\
# Generated from the Kedro project by `kedro dvc sync`.
# Change the pipelines, the catalog or the parameters, not this file.
"""


def sync(project: Path, name: str, write: bool = True) -> bool:
    """Return whether the study's dvc.yaml was behind the project, and write it if asked to."""
    path = project / dvc_file(name)
    made, there = document(load_study(project, name), path), _read(path)
    if _ordered(made) == _ordered(there):
        return False
    if write:
        write_text(path, render(made))
    return True


def private_cache(project: Path) -> None:
    """Make DVC's cache, if there is none yet, so that no other user of the machine can read it.

    DVC itself lets everyone read it, whatever rights the outputs had. A cache that is there keeps
    its rights: a team may share it on purpose.
    """
    if (project / ".dvc").is_dir():
        (project / ".dvc" / "cache").mkdir(mode=0o700, exist_ok=True)


def document(study: Study, path: Path) -> dict[str, Any]:
    """Return the content of a study's dvc.yaml; a stage that someone has frozen stays so.

    Raises:
        WorkflowError: If the project cannot be followed by DVC.
    """
    made: dict[str, Any] = {"stages": keep_frozen(stages(study), path)}
    found = artifacts(study)
    return {**made, "artifacts": found} if found else made


def artifacts(study: Study) -> dict[str, Any]:
    """Return what of a study's outputs the catalog calls an artifact (`dvc: {artifact: ...}`)."""
    up = "" if study.name == BASE else "../../"
    found = {}
    for node in study.pipelines["__default__"].nodes:
        for name in node.outputs:
            entry = study.dataset(name)
            if facts := for_dvc(entry).get("artifact"):
                key = re.sub(r"[^a-z0-9]+", "-", name.lower())
                found[key] = {"path": up + entry["filepath"], **facts}
    return found


def render(made: dict[str, Any]) -> str:
    """Return the text of a dvc.yaml."""
    text = yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=100)
    spaced = re.sub(r"\n(  \S)", r"\n\n\1", text).replace(":\n\n", ":\n")
    return HEADER + spaced.replace("\nartifacts:", "\n\nartifacts:")


def keep_frozen(made: dict[str, Stage], path: Path) -> dict[str, Stage]:
    """Return the stages; those that someone has frozen in the file stay so."""
    there = _read(path).get("stages", {})
    frozen = {name for name, stage in there.items() if stage.get("frozen")}
    return {
        name: {**stage, "frozen": True} if name in frozen else stage for name, stage in made.items()
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader) or {}


def _ordered(content: dict[str, Any]) -> list[Any]:
    return [(part, list(entries.items())) for part, entries in content.items()]


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and nothing where there is None, as people do."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "")
)
