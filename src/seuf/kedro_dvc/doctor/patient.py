"""Studies as they lie on disk: what their lock files record, and the MD5 of what is there."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dvc.output import Output
from dvc.repo import Repo

from seuf.kedro_dvc.doctor.integrity import FOLDER, all_objects, folder_md5, md5s, objects_of
from seuf.kedro_dvc.doctor.recorded import Recorded, recorded
from seuf.kedro_dvc.project.study import dvc_file


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
