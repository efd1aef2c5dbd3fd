"""The outputs that a study's dvc.lock records, read without DVC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml


class Recorded(NamedTuple):
    """An output as its stage has left it."""

    study: str
    stage: str  # as `dvc repro` takes it
    path: Path
    md5: str  # of a folder it ends with .dir
    size: int  # in bytes


def recorded(study: str, lock: Path, file: str, places: Mapping[str, str]) -> list[Recorded]:
    """Return the local outputs in a lock file.

    Args:
        study: The study's name.
        lock: Its dvc.lock; a study that has not run has none.
        file: Its dvc.yaml, from the project's root.
        places: The stages in there, each with the folder from which its paths go. What the lock
            has of other stages is a remnant that DVC does not look at.
    """
    if not lock.is_file():
        return []
    stages = yaml.load(lock.read_text(encoding="utf-8"), yaml.CSafeLoader)["stages"]
    return [
        Recorded(
            study,
            f"{file}:{name}",
            Path(os.path.normpath(Path(place, out["path"]))),
            out["md5"],
            out.get("size", 0),
        )
        for name, place in places.items()
        for out in stages.get(name, {}).get("outs", [])
        if "md5" in out and "://" not in out["path"]
    ]
