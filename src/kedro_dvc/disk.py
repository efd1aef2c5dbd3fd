"""What a check has found, and how bad it is.

The outputs that a study's dvc.lock records, read without DVC.

Studies as they lie on disk: what their lock files record, and the MD5 of what is there.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import yaml
from dvc.output import Output
from dvc.repo import Repo

from kedro_dvc.hashing import INTEGRITY_FOLDER as FOLDER
from kedro_dvc.hashing import all_objects, folder_md5, md5s, objects_of
from kedro_dvc.project import dvc_file

SHOWN = 5  # names of many


class Finding(NamedTuple):
    """One line for the user: `ok`, `warning` or `ERROR`, what it is, and the way out."""

    level: str
    text: str


def ok(text: str) -> Finding:
    """Return that something was looked at and is as it should be."""
    return Finding("ok", text)


def warning(text: str) -> Finding:
    """Return something that the user should know; no result is wrong because of it."""
    return Finding("warning", text)


def error(text: str) -> Finding:
    """Return something because of which a result may be wrong."""
    return Finding("ERROR", text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 file` or `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Iterable[object]) -> str:
    """Return names as a text: of many the first, and how many more there are."""
    texts = sorted(map(str, names))
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join(texts[:SHOWN] + more)


def gigabytes(size: int) -> str:
    """Return a number of bytes as a text."""
    return f"{size / 1e9:.3g} GB"


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


@dataclass(frozen=True)
class Patient:
    """What is examined; each fact is found when it is first asked for."""

    root: Path
    studies: list[str]
    repo: Repo
    whole_cache: bool  # or only what the studies need of it

    @cached_property
    def cache(self) -> Path:
        """The folder of DVC's cache in which objects lie."""
        return Path(self.repo.cache.local.path)

    @property
    def locks(self) -> Path:
        """DVC's table of who uses which files of stages."""
        return Path(self.repo.tmp_dir, "rwlock")

    @cached_property
    def outputs(self) -> list[Recorded]:
        """All that the lock files of the studies record as written."""
        return [one for study in self.studies for one in self._recorded(study)]

    @cached_property
    def files(self) -> dict[Path, dict[str, Path]]:
        """The files of each output that is there; of a folder by their path from there."""
        return {one.path: self._files(one.path) for one in self.outputs if one.path.exists()}

    @cached_property
    def objects(self) -> dict[str, Path]:
        """All that DVC's cache holds."""
        return all_objects(self.cache)

    @cached_property
    def needed(self) -> dict[str, list[Recorded]]:
        """The objects that cached outputs consist of, each with these outputs."""
        found: dict[str, list[Recorded]] = defaultdict(list)
        for output in filter(lambda one: self.cached(one.path), self.outputs):
            for md5 in objects_of(self.cache, output.md5):
                found[md5].append(output)
        return found

    @cached_property
    def md5s(self) -> dict[Path, str]:
        """The MD5 of every file that is looked at, each read once."""
        asked = self.objects if self.whole_cache else self.needed.keys() & self.objects.keys()
        outputs = [file for files in self.files.values() for file in files.values()]
        return md5s([*outputs, *(self.objects[md5] for md5 in asked)])

    @cached_property
    def damaged(self) -> set[str]:
        """The objects that are not what their names say."""
        named = {path: md5 for md5, path in self.objects.items()}
        return {
            named[path]
            for path, md5 in self.md5s.items()
            if path in named and named[path].removesuffix(FOLDER) != md5
        }

    def md5(self, path: Path) -> str | None:
        """Return the MD5 of an output as it is, None if it is not there."""
        files = self.files.get(path)
        if files is None:
            return None
        found = {name: self.md5s[file] for name, file in files.items() if file in self.md5s}
        return folder_md5(found) if path.is_dir() else found.get("")

    def name(self, path: Path) -> str:
        """Return a path as the user gives it, from the project's root."""
        return os.path.relpath(path, self.root)

    def believed(self, path: Path) -> bool:
        """Return whether DVC takes an output for what its stage has left."""
        return path in self._known and not self._known[path].workspace_status()

    def cached(self, path: Path) -> bool:
        """Return whether DVC can restore an output from its cache."""
        return path in self._known and self._known[path].use_cache

    @cached_property
    def _known(self) -> dict[Path, Output]:
        return {Path(out.fs_path): out for out in self.repo.index.outs}

    def _recorded(self, study: str) -> list[Recorded]:
        file = dvc_file(study)
        stages = [one for one in self.repo.index.stages if one.path_in_repo == file]
        places = {one.name: one.wdir for one in stages}
        return recorded(study, (self.root / file).with_suffix(".lock"), file, places)

    def _files(self, path: Path) -> dict[str, Path]:
        if not path.is_dir():
            return {"": path}
        walked = self.repo.dvcignore.walk(self.repo.fs, str(path))
        files = [Path(folder, name) for folder, _, names in walked for name in names]
        return {file.relative_to(path).as_posix(): file for file in files}
