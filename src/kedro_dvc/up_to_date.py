"""Find without DVC that there is nothing to do, as no file of the last run has changed since.

DVC takes a file for unchanged if its time, size and inode are as they were. So does this module,
for all files that the stages read or write and all that define the stages; at any difference DVC
is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kedro_dvc.files import Stamp, stamp, write_text

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import Stage

NOTES = Path(".dvc/tmp/kedro_dvc")
DVC_CONFIG = (".dvc/config", ".dvc/config.local", ".dvcignore")


class RunFiles(NamedTuple):
    """The files of a run of stages; paths are from the project's root.

    Attributes:
        stages: The number of stages.
        read: The stamps of what is only read, taken before the run.
        written: What is written.
        outputs: Those that DVC's cache holds too; it would run their stages if they were missing
            there.
    """

    stages: int
    read: dict[str, Stamp]
    written: list[str]
    outputs: list[Output]


def files_before_run(project: Path, stages: list[Stage]) -> RunFiles | None:
    """Return the files of a run of all these stages, which is about to begin.

    None if one is not local, or if a stage always runs: such a run is never up to date.
    """
    used = [out for stage in stages for out in (*stage.deps, *stage.outs)]
    if any(out.protocol != "local" for out in used) or any(one.always_changed for one in stages):
        return None
    files = {os.path.relpath(stage.path, project) for stage in stages}
    outs = {os.path.relpath(out.fs_path, project) for stage in stages for out in stage.outs}
    deps = {os.path.relpath(out.fs_path, project) for out in used} - outs
    locks = {str(Path(file).with_suffix(".lock")) for file in files}
    cached = [out for stage in stages for out in stage.outs if out.use_cache]
    read = _stamps(project, deps | files | {*DVC_CONFIG})
    return RunFiles(len(stages), read, sorted(outs | locks), cached)


def note_run(project: Path, file: str, run: RunFiles) -> None:
    """Note that a run of all stages of a dvc.yaml has succeeded."""
    stamps = {**run.read, **_stamps(project, [*run.written, *_in_cache(run.outputs)])}
    write_text(_note(project, file), json.dumps([run.stages, stamps]))


def unchanged_stages(project: Path, file: str) -> int:
    """Return the number of stages of a dvc.yaml if none has changed; 0 if that is not certain."""
    try:
        stages, stamps = json.loads(_note(project, file).read_text())
        return int(stages) if _stamps(project, stamps) == stamps else 0
    except (FileNotFoundError, ValueError):
        return 0


def _in_cache(outputs: Iterable[Output]) -> Iterator[str]:
    """Yield the files in DVC's cache that hold outputs."""
    for out in outputs:
        if out.hash_info:
            yield out.cache.oid_to_path(out.hash_info.value)
        if out.hash_info.isdir:
            yield from (out.cache.oid_to_path(one.value) for _, _, one in out.get_obj() or ())


def _note(project: Path, file: str) -> Path:
    return project / NOTES / f"{file.replace('/', '.')}.json"


def _stamps(project: Path, paths: Iterable[str]) -> dict[str, Stamp]:
    return {path: stamp(project / path) for path in paths}
