"""Tell without DVC that there is nothing to do, as no file of the last run has changed since.

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
    from dvc.output import Output
    from dvc.stage import Stage

NOTES = Path(".dvc/tmp/kedro_dvc")
DVC_CONFIG = (".dvc/config", ".dvc/config.local", ".dvcignore")
IGNORED = "__pycache__"

States = dict[str, list[int]]  # of files: what changes when they are written


class RunFiles(NamedTuple):
    """The files and folders of a run of stages.

    Attributes:
        stages: How many stages there are.
        read: What is read and not written.
        written: What is written.
        states: Of what is read, before the run: it may change meanwhile.
        outputs: Those that DVC's cache has, too: without that DVC would run their stages.
    """

    stages: int
    read: list[str]
    written: list[str]
    states: States
    outputs: list[Output]


def files_before_run(project: Path, stages: list[Stage]) -> RunFiles | None:
    """Return the files of a run of all these stages, which is about to begin.

    None if something is no local file, or a stage always runs: that is never unchanged.
    """
    used = [out for stage in stages for out in (*stage.deps, *stage.outs)]
    if any(out.protocol != "local" for out in used) or any(one.always_changed for one in stages):
        return None
    files = {os.path.relpath(stage.path, project) for stage in stages}
    outs = {os.path.relpath(out.fs_path, project) for stage in stages for out in stage.outs}
    deps = {os.path.relpath(out.fs_path, project) for out in used} - outs
    locks = {str(Path(file).with_suffix(".lock")) for file in files}
    read = sorted(deps | files | {*DVC_CONFIG})
    cached = [out for stage in stages for out in stage.outs if out.use_cache]
    return RunFiles(len(stages), read, sorted(outs | locks), _states(project, read), cached)


def note_run(project: Path, file: str, run: RunFiles) -> None:
    """Note that a run of all stages of a dvc.yaml has ended well."""
    written = [*run.written, *_in_cache(run.outputs)]
    states = {**run.states, **_states(project, written)}
    write_text(_note(project, file), json.dumps([run.stages, run.read + written, states]))


def unchanged_stages(project: Path, file: str) -> int:
    """Return how many stages of a dvc.yaml are noted and unchanged; 0 if that is not sure."""
    try:
        stages, paths, states = json.loads(_note(project, file).read_text())
    except (FileNotFoundError, ValueError):
        return 0
    return int(stages) if _states(project, paths) == states else 0


def _in_cache(outputs: Iterable[Output]) -> Iterator[str]:
    """Yield the files in DVC's cache that hold outputs."""
    for out in outputs:
        if out.hash_info:
            yield out.cache.oid_to_path(out.hash_info.value)
        if out.hash_info.isdir:
            yield from (out.cache.oid_to_path(one.value) for _, _, one in out.get_obj() or ())


def _note(project: Path, file: str) -> Path:
    return project / NOTES / f"{file.replace('/', '.')}.json"


def _states(project: Path, paths: Iterable[str]) -> States:
    return {name: state for path in paths for name, state in _below(project / path)}


def _below(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the state of a file, or of all in a folder."""
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name != IGNORED:
                    yield from _below(Path(entry.path))
    elif path.exists():
        facts = path.stat()
        yield str(path), [facts.st_mtime_ns, facts.st_size, facts.st_ino]
