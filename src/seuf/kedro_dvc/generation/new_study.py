"""A new study: a folder of conf/ that begins as another one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from seuf.kedro_dvc.errors import WorkflowError
from seuf.kedro_dvc.generation.sync import sync
from seuf.kedro_dvc.project.configuration import BASE
from seuf.kedro_dvc.project.study import check_study, dvc_file

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
