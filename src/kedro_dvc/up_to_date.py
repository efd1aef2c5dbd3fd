"""Nothing to do, told without DVC: no file of a run has changed since.

DVC takes a file for unchanged if its time of change, size and inode are as they were. So does
this, for all files that the stages read or write and those that say what the stages are; at the
least difference DVC is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kedro_dvc.files import write_text

if TYPE_CHECKING:
    from dvc.stage import Stage

NOTES = Path(".dvc/tmp/kedro_dvc")
DVC_CONFIG = (".dvc/config", ".dvc/config.local", ".dvcignore")
IGNORED = "__pycache__"

Facts = dict[str, list[int]]


class Before(NamedTuple):
    """A run of stages, and how the files that it reads were before: they may change meanwhile."""

    stages: int
    read: list[str]  # files and folders
    written: list[str]
    facts: Facts  # of what is read


def before(project: Path, stages: list[Stage]) -> Before | None:
    """Return how things are before a run of all these stages.

    None if something is no local file, or a stage always runs: that is never unchanged.
    """
    used = [out for stage in stages for out in (*stage.deps, *stage.outs)]
    if any(out.protocol != "local" for out in used) or any(one.always_changed for one in stages):
        return None
    files = {os.path.relpath(stage.path, project) for stage in stages}
    outs = {os.path.relpath(out.fs_path, project) for stage in stages for out in stage.outs}
    read = {os.path.relpath(out.fs_path, project) for out in used} - outs
    locks = {str(Path(file).with_suffix(".lock")) for file in files}
    roots = sorted(read | files | {*DVC_CONFIG})
    return Before(len(stages), roots, sorted(outs | locks), _facts(project, roots))


def note(project: Path, file: str, run: Before) -> None:
    """Note that a run of all stages of a dvc.yaml has ended well."""
    facts = {**run.facts, **_facts(project, run.written)}
    write_text(_note(project, file), json.dumps([run.stages, run.read + run.written, facts]))


def still_unchanged(project: Path, file: str) -> int:
    """Return how many stages of a dvc.yaml are noted and as they were; 0 if that is not sure."""
    try:
        stages, roots, facts = json.loads(_note(project, file).read_text())
    except (FileNotFoundError, ValueError):
        return 0
    return int(stages) if _facts(project, roots) == facts else 0


def _note(project: Path, file: str) -> Path:
    return project / NOTES / f"{file.replace('/', '.')}.json"


def _facts(project: Path, roots: Iterable[str]) -> Facts:
    return {path: facts for root in roots for path, facts in _below(project / root)}


def _below(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield a file, or all in a folder, with what changes when it is written."""
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name != IGNORED:
                    yield from _below(Path(entry.path))
    elif path.exists():
        facts = path.stat()
        yield str(path), [facts.st_mtime_ns, facts.st_size, facts.st_ino]
