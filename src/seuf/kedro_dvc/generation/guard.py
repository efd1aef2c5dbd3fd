"""The stage that runs first and stops everything if dvc.yaml is behind the project.

What a stage depends on is read from the project, and an input, an import, a method or a key of a
study that comes or goes changes it. DVC cannot know: so the guard runs whenever configuration or
code has changed, makes the stages anew and fails if dvc.yaml has others. Its output never changes,
so that no other stage runs because the guard did.
"""

from __future__ import annotations

import re
from pathlib import Path

from seuf.kedro_dvc.files import write_text
from seuf.kedro_dvc.generation.outputs import Stage, paths_of
from seuf.kedro_dvc.project.code import package
from seuf.kedro_dvc.project.study import BASE, Study, place

GUARD = "in_sync"
STAMP = "dvc.yaml is what `kedro dvc sync` makes of this project.\n"


def stamp(study: str) -> str:
    """Return the file that the guard writes when a study's dvc.yaml is current."""
    return f".{GUARD}/{study}"


def write_stamp(project: Path, study: str) -> None:
    """Write what the guard leaves behind."""
    write_text(project / stamp(study), STAMP)


def guard(study: Study) -> Stage:
    """Return the guard of a study's stages."""
    folders = dict.fromkeys((BASE, study.name))
    return {
        "desc": "Stop if this file is behind the Kedro project.",
        "cmd": f"kedro dvc sync --check --env {study.name} --stamp",
        **place(study.name),
        "deps": [*(f"conf/{folder}" for folder in folders), f"src/{package()}"],
        "outs": [stamp(study.name)],
    }


def after_guard(made: dict[str, Stage], study: Study) -> dict[str, Stage]:
    """Let the stages that nothing of the study comes before depend on the guard.

    A `dvc repro` of any stage then begins with it.
    """
    written = [_pattern(path) for stage in made.values() for path in paths_of(stage)]
    return {
        name: stage
        if any(one.fullmatch(path) for one in written for path in stage["deps"])
        else {**stage, "deps": [stamp(study.name), *stage["deps"]]}
        for name, stage in made.items()
    }


def _pattern(path: str) -> re.Pattern[str]:
    """Return what a path with `${item.x}` matches, or what lies in the folder that it is."""
    parts = (re.escape(part) for part in re.split(r"\$\{item\.\w+\}", path))
    return re.compile(".+".join(parts) + "(/.*)?")
