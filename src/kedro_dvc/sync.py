"""dvc.yaml on disk: written from the project, or held against it.

A new study: a folder of conf/ that begins as another one.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from kedro_dvc.configuration import BASE
from kedro_dvc.files import WorkflowError, write_text
from kedro_dvc.project import Study, check_study, dvc_file, for_dvc, load_study
from kedro_dvc.stages import Stage, stages

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


NAME = re.compile(r"[a-z][a-z0-9_]*")
GLOBALS = "globals.yml"
OWN = {"study": "{name}", "data_root": "studies/{name}/data"}  # what no two studies share


def new_study(project: Path, name: str, source: str) -> list[str]:
    """Make a study and return the paths that were written.

    It has the source's configuration, all but where its artifacts go. Of base, on top of which
    every study lies, only that is copied.

    Args:
        project: The project's root.
        name: The new study.
        source: The study that it begins as.

    Raises:
        WorkflowError: If the name is taken or none that a folder and DVC can have, or the source
            does not exist or shares its place with others.
    """
    folder = project / "conf" / name
    _check_name(project, name)
    made = {path.name: path.read_text("utf-8") for path in _copied(project, source)}
    made[GLOBALS] = _renamed(made[GLOBALS], name, source)
    folder.mkdir()
    try:
        for file, text in made.items():
            (folder / file).write_text(text, encoding="utf-8")
        sync(project, name)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return [*(f"conf/{name}/{file}" for file in sorted(made)), dvc_file(name)]


def _check_name(project: Path, name: str) -> None:
    if not NAME.fullmatch(name) or name == "local":
        raise WorkflowError(
            f"{name!r} cannot be a study: begin with a letter and use a-z, 0-9 and _ alone."
        )
    for taken in (project / "conf" / name, project / "studies" / name):
        if taken.exists():
            raise WorkflowError(f"There is a {taken.relative_to(project)} already.")


def _copied(project: Path, source: str) -> list[Path]:
    folder = project / "conf" / check_study(project, source)
    return [folder / GLOBALS] if source == BASE else sorted(folder.glob("*.y*ml"))


def _renamed(text: str, name: str, source: str) -> str:
    """Return the globals with the new study's own place."""
    for key, value in OWN.items():
        line = rf"(?m)^{key}:.*$"
        if not re.search(line, text):
            raise WorkflowError(f"conf/{source}/{GLOBALS} has no {key!r}: it shares its artifacts.")
        text = re.sub(line, f"{key}: {value.format(name=name)}", text)
    return text
