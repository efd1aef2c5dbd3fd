"""Every version of an output that this clone knows of, by its hash.

The lock files of the workspace tell, those that git still holds anywhere (branches, tags, stashes,
DVC's experiments, the index, what the reflog remembers), and DVC's run-cache.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from seuf.kedro_dvc.files import files_of

LOCK = "dvc.lock"
DIRECTORY = ".dir"  # how the hash of a folder ends


@dataclass(frozen=True, order=True)
class Version:
    """A file or folder that was an output once, or a file in such a folder."""

    path: str  # from the project's root
    md5: str
    size: int | None = field(default=None, compare=False)


def known_versions(repo: Repo) -> set[Version]:
    """Return all that any lock file has as an output."""
    root = Path(repo.root_dir)
    texts = [*_in_workspace(root), *_in_git(root), *_in_run_cache(repo)]
    return {version for name, text in texts for version in _outputs(name, text)}


def unknown_versions(root: Path) -> list[str]:
    """Return in words what of git's history is not here."""
    shallow = _git(root, "rev-parse", "--is-shallow-repository").strip() == "true"
    return ["the commits that this shallow clone lacks: git fetch --unshallow"] if shallow else []


def with_files(versions: Iterable[Version], stores: list[HashFileDB]) -> Iterator[Version]:
    """Yield the versions, and what lies in those that are folders.

    Args:
        versions: Outputs.
        stores: Where the listing of a folder may be; if it is in none, the folder comes alone.
    """
    for version in versions:
        yield version
        if version.md5.endswith(DIRECTORY):
            for key, meta, info in listing(version.md5, stores) or ():
                yield Version("/".join([version.path, *key]), info.value, meta.size)


def listing(md5: str, stores: list[HashFileDB]) -> Tree | None:
    """Return the listing of a folder from the first store that has it."""
    for store in stores:
        try:
            return Tree.load(store, HashInfo("md5", md5))
        except (FileNotFoundError, ObjectFormatError):
            continue
    return None


def lying(root: Path, paths: Iterable[str]) -> Iterator[Version]:
    """Yield the files that lie at the paths, whether a lock file knows them or not."""
    for path in paths:
        for file in files_of(root / path):
            yield Version(str(file.relative_to(root)), md5_of(file), file.stat().st_size)


def md5_of(file: Path) -> str:
    """Return the hash of a file as DVC takes it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def _in_workspace(root: Path) -> Iterator[tuple[str, str]]:
    for name in _git(root, "ls-files", "-coz", "--exclude-standard").split("\0"):
        if _holds_hashes(name) and (root / name).is_file():
            yield name, (root / name).read_text(encoding="utf-8")


def _in_git(root: Path) -> Iterator[tuple[str, str]]:
    everywhere = ("--all", "--reflog", "--indexed-objects", "--objects")
    for line in _git(root, "rev-list", *everywhere).splitlines():
        sha, _, name = line.partition(" ")
        if _holds_hashes(name):
            yield name, _git(root, "cat-file", "blob", sha)


def _in_run_cache(repo: Repo) -> Iterator[tuple[str, str]]:
    for path in Path(repo.stage_cache.cache_dir).glob("*/*/*"):
        yield LOCK, path.read_text(encoding="utf-8")


def _holds_hashes(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name == LOCK or path.suffix == ".dvc"  # .dvc itself, a folder, has no suffix


def _outputs(name: str, text: str) -> Iterator[Version]:
    """Yield what a file tells of outputs; the paths in a lock file lead from the root."""
    content = yaml.load(text, yaml.CSafeLoader) or {}
    folder = PurePosixPath("." if name.endswith(LOCK) else PurePosixPath(name).parent)
    for holder in (content, *content.get("stages", {}).values()):
        for out in holder.get("outs", []):
            if "md5" in out:
                yield Version(str(folder / out["path"]), out["md5"], out.get("size"))


def _git(root: Path, *command: str) -> str:
    made = subprocess.run(["git", *command], cwd=root, check=True, capture_output=True)
    return made.stdout.decode(errors="surrogateescape")
