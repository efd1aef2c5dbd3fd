"""What DVC has recorded and stored, read from its files: lock files, its cache, the workspace."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from kedro_dvc.files import WorkflowError, broken_yaml
from kedro_dvc.hashing import DIRECTORY, Digests, file_digests, folder_digests
from kedro_dvc.project import dvc_file

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

SHOWN = 5  # names of many
# what `locked_stages` raises
NO_LOCK = (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError)


class LockedFile(NamedTuple):
    """A file or folder as a lock file records it."""

    md5: str  # of a folder it ends with .dir
    size: int | None  # in bytes


class LockedStage(NamedTuple):
    """A stage as a lock file records its last run: files by path, values by key by file."""

    cmd: str
    deps: dict[str, LockedFile]
    outs: dict[str, LockedFile]
    params: dict[str, dict[str, Any]]


def locked_stages(text: str) -> dict[str, LockedStage]:
    """Return the stages in the text of a dvc.lock by name.

    A `.dvc` file and an entry of DVC's run-cache hold one stage, whose name is ''. Files that have
    no MD5, such as those in a bucket, are left out.

    Raises:
        yaml.YAMLError, AttributeError, KeyError, TypeError: If it is no such text.
    """
    content = yaml.load(text, yaml.CSafeLoader) or {}
    single = {"": content} if "outs" in content else {}
    return {
        name: LockedStage(
            stage.get("cmd", ""),
            _locked_files(stage.get("deps", [])),
            _locked_files(stage.get("outs", [])),
            stage.get("params", {}),
        )
        for name, stage in content.get("stages", single).items()
    }


def read_lock(path: Path) -> dict[str, LockedStage]:
    """Return the stages in a dvc.lock by name.

    Raises:
        WorkflowError: If it cannot be read, in one line.
    """
    try:
        return locked_stages(path.read_text(encoding="utf-8"))
    except NO_LOCK as error:
        raise WorkflowError(broken_yaml(path, error)) from error


def _locked_files(entries: Iterable[Mapping[str, Any]]) -> dict[str, LockedFile]:
    return {
        entry["path"]: LockedFile(_digest(entry["md5"]), entry.get("size"))
        for entry in entries
        if "md5" in entry
    }


def _digest(md5: Any) -> str:
    if not isinstance(md5, str):
        raise TypeError(f"md5 is {md5!r}, it must be a word")
    return md5


def object_path(cache: Path, md5: str) -> Path:
    """Return where DVC's cache has an object."""
    return cache / md5[:2] / md5[2:]


def objects_of(cache: Path, md5: str) -> Iterator[str]:
    """Yield the object of a file; of a folder its listing and those of all files in it."""
    yield md5
    if md5.endswith(DIRECTORY):
        try:
            yield from [entry["md5"] for entry in json.loads(object_path(cache, md5).read_bytes())]
        except (OSError, ValueError, TypeError, KeyError):  # it is missing or damaged
            return


def all_objects(cache: Path) -> dict[str, Path]:
    """Return the file of every object in DVC's cache, by its MD5."""
    paths = {f"{path.parent.name}{path.name}": path for path in cache.glob("??/*")}
    return {md5: path for md5, path in paths.items() if len(md5.removesuffix(DIRECTORY)) == 32}


class LockedOutput(NamedTuple):
    """An output of a study as its stage has left it."""

    study: str
    stage: str  # as `dvc repro` takes it
    path: Path
    md5: str  # of a folder it ends with .dir
    size: int  # in bytes


@dataclass(frozen=True)
class StudiesOnDisk:
    """Studies as they are on disk; each fact is read when it is first asked for."""

    root: Path
    studies: list[str]
    repo: Repo
    whole_cache: bool  # or only what the studies need of it

    @cached_property
    def cache(self) -> Path:
        """The folder of DVC's cache that holds the objects."""
        return Path(self.repo.cache.local.path)

    @cached_property
    def outputs(self) -> list[LockedOutput]:
        """The local outputs that the lock files of the studies record."""
        return [one for study in self.studies for one in self._outputs(study)]

    @cached_property
    def files(self) -> dict[Path, dict[str, Path]]:
        """The files of each output that is there; of a folder by their path from there."""
        return {one.path: self._files(one.path) for one in self.outputs if one.path.exists()}

    @cached_property
    def objects(self) -> dict[str, Path]:
        """All that DVC's cache holds."""
        return all_objects(self.cache)

    @cached_property
    def needed_objects(self) -> dict[str, list[LockedOutput]]:
        """The objects that cached outputs consist of, each with these outputs."""
        needed: dict[str, list[LockedOutput]] = defaultdict(list)
        for output in self.outputs:
            if self.is_cached(output.path):
                for md5 in objects_of(self.cache, output.md5):
                    needed[md5].append(output)
        return needed

    @cached_property
    def damaged_objects(self) -> set[str]:
        """The objects that are not what their names say."""
        return {
            md5
            for md5, path in self.objects.items()
            if path in self._digests and self._digests[path].md5 != md5.removesuffix(DIRECTORY)
        }

    @cached_property
    def objects_read(self) -> int:
        """How many objects were read."""
        return len(self._digests.keys() & set(self.objects.values()))

    def md5(self, path: Path) -> str | None:
        """Return the MD5 of an output as it is now, None if it is not there."""
        if path not in self.files:
            return None
        by_name = {
            name: self._digests[file]
            for name, file in self.files[path].items()
            if file in self._digests
        }
        if path.is_dir():
            return folder_digests(by_name).md5
        return by_name[""].md5 if by_name else None

    def from_root(self, path: Path) -> str:
        """Return a path as the user gives it, from the project's root."""
        return os.path.relpath(path, self.root)

    def is_unchanged_to_dvc(self, path: Path) -> bool:
        """Return whether DVC takes an output for what its stage has left."""
        return path in self._known and not self._known[path].workspace_status()

    def is_cached(self, path: Path) -> bool:
        """Return whether DVC can restore an output from its cache."""
        return path in self._known and self._known[path].use_cache

    @cached_property
    def _known(self) -> dict[Path, Output]:
        return {Path(out.fs_path): out for out in self.repo.index.outs}

    @cached_property
    def _digests(self) -> dict[Path, Digests]:
        """Digests of every file that is looked at, each read once."""
        asked = self.objects if self.whole_cache else self.needed_objects.keys() & self.objects
        outputs = [file for files in self.files.values() for file in files.values()]
        return file_digests([*outputs, *(self.objects[md5] for md5 in asked)], tolerant=True)

    def _outputs(self, study: str) -> Iterator[LockedOutput]:
        file = dvc_file(study)
        lock = (self.root / file).with_suffix(".lock")
        if not lock.is_file():
            return
        locked = read_lock(lock)
        for stage in self.repo.index.stages:  # what else the lock has is of stages that are no more
            if stage.path_in_repo == file and stage.name in locked:
                for path, (md5, size) in locked[stage.name].outs.items():
                    if "://" not in path:
                        full = Path(os.path.normpath(Path(stage.wdir, path)))
                        yield LockedOutput(study, f"{file}:{stage.name}", full, md5, size or 0)

    def _files(self, path: Path) -> dict[str, Path]:
        if not path.is_dir():
            return {"": path}
        walked = self.repo.dvcignore.walk(self.repo.fs, str(path))
        files = [Path(folder, name) for folder, _, names in walked for name in names]
        return {file.relative_to(path).as_posix(): file for file in files}


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
