"""Where DVC keeps objects: its cache and the configured remotes.

Every version of an output that this clone knows of, by its hash.

The lock files of the workspace tell, those that git still holds anywhere (branches, tags, stashes,
DVC's experiments, the index, what the reflog remembers), and DVC's run-cache.

Delete the bytes of data sets wherever DVC keeps them, and leave their hashes in dvc.lock.

Every version that `versions` knows is deleted, from the workspace and from all `places`. An object
that another output holds too is kept unless that is asked for.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import yaml
from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from dvc_objects.fs.base import ObjectFileSystem
from tabulate import tabulate

from kedro_dvc.files import WorkflowError, files_of
from kedro_dvc.project import Study
from kedro_dvc.stages import for_dvc


class Place(NamedTuple):
    """A store of objects, and what it is called."""

    name: str
    store: HashFileDB


def places(repo: Repo) -> tuple[list[Place], list[str]]:
    """Return the places that can be searched, and in words what is wrong with the others."""
    found, wrong = [Place("cache", repo.cache.local)], []
    for name in repo.config["remote"]:
        try:
            found.append(Place(f"remote {name}", _store(repo, name)))
        except Exception as error:  # each kind of remote fails in its own way
            wrong.append(f"remote {name}: {error}")
    return found, wrong


def holders(there: Collection[Place], md5s: Collection[str]) -> dict[str, list[str]]:
    """Return for each object that is somewhere the names of the places that have it."""
    found: dict[str, list[str]] = {}
    for name, store in there:
        for md5 in store.list_oids_exists(md5s):
            found.setdefault(md5, []).append(name)
    return found


def delete(place: Place, md5s: Collection[str]) -> Iterator[str]:
    """Delete objects; yield in words what is still there after it."""
    why = {}
    for md5 in md5s:
        try:
            place.store.delete(md5)
        except Exception as error:  # each kind of remote fails in its own way
            why[md5] = f": {error}"
    get_index(place.store).clear()  # else DVC goes on believing that they are there
    for md5 in place.store.list_oids_exists(md5s):
        yield f"{place.name} still has {md5}{why.get(md5, '')}"


def _store(repo: Repo, remote: str) -> HashFileDB:
    """Return the objects of a remote.

    Raises:
        FileNotFoundError: If its folder or its bucket is not there.
    """
    store = repo.cloud.get_remote_odb(remote, "erase")
    is_bucket = isinstance(store.fs, ObjectFileSystem)  # which has no empty folders
    top = store.path.partition("/")[0] if is_bucket else store.path
    if not store.fs.exists(store.path) and not store.fs.exists(top):
        raise FileNotFoundError(f"there is no {store.fs.unstrip_protocol(top)}")
    return store


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


WORKSPACE = "workspace"
HEADERS = ("path", "md5", "bytes", "where")
BEYOND = [
    "other clones: what lies in the cache of one comes back with its next `dvc push`",
    "backups and snapshots, and buckets that keep earlier versions of an object",
    "what these data sets were made from, and what was made from them",
]


@dataclass(frozen=True)
class Plan:
    """What is to be deleted.

    Attributes:
        paths: The outputs, from the project's root.
        found: Each version that is still somewhere, with the names of the places.
        shared: Versions of other outputs with the same content, which is kept for them.
        places: Those that could be searched.
        out_of_reach: What could not, in words.
        unknown: What may be missing from all this, in words.
    """

    paths: list[str]
    found: dict[Version, list[str]]
    shared: list[Version]
    places: list[Place]
    out_of_reach: list[str]
    unknown: list[str]

    def __str__(self) -> str:
        """Return the table of what will be deleted, and what is kept for others."""
        rows = [(one.path, one.md5, one.size, ", ".join(at)) for one, at in self.found.items()]
        table = tabulate(rows, HEADERS, "plain") if rows else "Nothing of it is left here."
        kept = [f"  {one.path}  {one.md5}" for one in self.shared]
        heading = ["Kept, as these have the same content (--shared deletes it, too):"]
        return "\n".join([table, *(heading + kept if kept else [])])


def outputs_named(study: Study, names: Iterable[str]) -> dict[str, bool]:
    """Return the paths of data sets, each with whether DVC caches it.

    Raises:
        WorkflowError: If one is no output of the study; with those that are.
    """
    outputs = [name for node in study.pipelines["__default__"].nodes for name in node.outputs]
    if unknown := [name for name in names if name not in outputs]:
        known = ", ".join(dict.fromkeys(study.factory(name) or name for name in outputs))
        raise WorkflowError(
            f"{unknown[0]!r} is no output that DVC tracks in the study {study.name!r}; "
            f"these are: {known}."
        )
    entries = [study.dataset(name) for name in names]
    return {entry["filepath"]: for_dvc(entry).get("cache") is not False for entry in entries}


def plan(repo: Repo, paths: Collection[str], shared: bool = False) -> Plan:
    """Return what is to be deleted.

    Args:
        repo: The project as DVC sees it.
        paths: The outputs, from the project's root.
        shared: Whether to delete also what other outputs hold with the same content.
    """
    root, (there, out_of_reach) = Path(repo.root_dir), places(repo)
    stores = [place.store for place in there]
    known = set(with_files(known_versions(repo), stores))
    named = {one for one in known if _within(one.path, paths)} | set(lying(root, paths))
    md5s = {one.md5 for one in named}
    same = {one for one in known - named if one.md5 in md5s}
    kept = set() if shared else {one.md5 for one in same}
    found = dict(_found(root, named | same if shared else named, holders(there, md5s - kept)))
    unknown = [*_unlisted(named, stores), *unknown_versions(root)]
    return Plan(list(paths), found, sorted(same) if kept else [], there, out_of_reach, unknown)


def carry_out(repo: Repo, planned: Plan) -> list[str]:
    """Delete what is planned; return in words what is still there."""
    root = Path(repo.root_dir)
    with lock_repo(repo):
        for one, at in planned.found.items():
            if WORKSPACE in at:
                (root / one.path).unlink()
        for path in planned.paths:
            shutil.rmtree(root / path, ignore_errors=True)  # folders, empty by now
        return [
            line
            for place in planned.places
            for line in delete(
                place, {v.md5 for v, at in planned.found.items() if place.name in at}
            )
        ]


def not_reached(planned: Plan, outputs: dict[str, bool]) -> list[str]:
    """Return in words what the erasure has not reached though nothing went wrong.

    Args:
        planned: What was deleted.
        outputs: Paths, each with whether DVC caches it.
    """
    in_git = [f"the commits that hold {path}" for path, cached in outputs.items() if not cached]
    return planned.unknown + in_git + BEYOND


def _found(
    root: Path, versions: Collection[Version], held: dict[str, list[str]]
) -> Iterator[tuple[Version, list[str]]]:
    """Yield the versions that are somewhere, with where that is."""
    files = {one.path for one in versions if (root / one.path).is_file()}
    here = {Version(path, md5_of(root / path)) for path in files}
    for one in sorted(versions):
        if at := [WORKSPACE] * (one in here) + held.get(one.md5, []):
            yield one, at


def _unlisted(versions: Iterable[Version], stores: list[HashFileDB]) -> Iterator[str]:
    for one in sorted(versions):
        if one.md5.endswith(DIRECTORY) and listing(one.md5, stores) is None:
            yield f"the files of {one.path} when it was {one.md5}: their listing is gone"


def _within(path: str, paths: Iterable[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in paths)
