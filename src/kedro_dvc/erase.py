"""Delete the bytes of data sets wherever DVC keeps them, and leave their hashes in dvc.lock.

Every version of an output that this clone knows of is deleted, from the workspace, DVC's cache and
all remotes. The versions are known from lock files: those of the workspace, those that git still
holds anywhere (branches, tags, stashes, DVC's experiments, the index, the reflog), and DVC's
run-cache. An object that another output holds too is kept unless that is asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError
from dvc_objects.fs.base import ObjectFileSystem
from tabulate import tabulate

from kedro_dvc.disk import NO_LOCK, locked_stages, read_lock
from kedro_dvc.evidence import Erasure, erasures_file, read_erasures, text_of
from kedro_dvc.files import WorkflowError, files_of, git, write_text
from kedro_dvc.hashing import DIRECTORY, file_digests
from kedro_dvc.project import Study, for_dvc

LOCK = "dvc.lock"
WORKSPACE = "workspace"
HEADERS = ("path", "md5", "bytes", "where")
Stores = dict[str, HashFileDB]  # DVC's cache and remotes, by name
BEYOND = [
    "other clones: what lies in the cache of one comes back with its next `dvc push`",
    "backups and snapshots, and buckets that keep earlier versions of an object",
    "what these data sets were made from, and what was made from them",
]


@dataclass(frozen=True, order=True)
class Version:
    """A file or folder that was an output once, or a file in such a folder."""

    path: str  # from the project's root
    md5: str
    size: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ErasurePlan:
    """What is to be deleted.

    Attributes:
        paths: The outputs, from the project's root.
        versions: Each version that is still somewhere, with the names of the stores.
        shared: Versions of other outputs with the same content, which is kept for them.
        stores: Those that could be searched.
        unsearched: Those that could not, in words.
        unknown: What may be missing from all this, in words.
    """

    paths: list[str]
    versions: dict[Version, list[str]]
    shared: list[Version]
    stores: Stores
    unsearched: list[str]
    unknown: list[str]

    def __str__(self) -> str:
        """Return the table of what will be deleted, and what is kept for others."""
        rows = [(one.path, one.md5, one.size, ", ".join(at)) for one, at in self.versions.items()]
        table = tabulate(rows, HEADERS, "plain") if rows else "Nothing of it is left here."
        kept = [f"  {one.path}  {one.md5}" for one in self.shared]
        heading = ["Kept, as these have the same content (--shared deletes it, too):"]
        return "\n".join([table, *(heading + kept if kept else [])])


def outputs_named(study: Study, names: Iterable[str]) -> dict[str, bool]:
    """Return the paths of data sets, each with whether DVC caches it.

    A name may also be the path of data that `dvc add` tracks, or of their `.dvc` file.

    Raises:
        WorkflowError: If one is no output of the study nor such a path; with those that are.
    """
    outputs = [name for node in study.pipelines["__default__"].nodes for name in node.outputs]
    paths = dict[str, bool]()
    for name in names:
        if name in outputs:
            entry = study.dataset(name)
            paths[entry["filepath"]] = for_dvc(entry).get("cache") is not False
        elif added := _added(study.project, name):
            paths |= dict.fromkeys(added, True)
        else:
            known = ", ".join(dict.fromkeys(study.factory(one) or one for one in outputs))
            raise WorkflowError(
                f"{name!r} is no output that DVC tracks in the study {study.name!r}; "
                f"these are: {known}. There is no {_dvc_file(name)} either."
            )
    return paths


def _dvc_file(path: str) -> str:
    return path if path.endswith(".dvc") else f"{path.rstrip('/')}.dvc"


def _added(project: Path, path: str) -> list[str]:
    """Return what a `.dvc` file tracks, from the project's root; nothing if there is none."""
    if not (project / _dvc_file(path)).is_file():
        return []
    folder = PurePosixPath(_dvc_file(path)).parent
    return [
        str(folder / out)
        for stage in read_lock(project / _dvc_file(path)).values()
        for out in stage.outs
    ]


def kept_apart(study: Study) -> list[str]:
    """Return the outputs that the catalog keeps apart: `metadata: {dvc: {remote: ...}}`.

    Also where the remote is null, as it is until a team has one.
    """
    outputs = [name for node in study.pipelines["__default__"].nodes for name in node.outputs]
    return [name for name in outputs if "remote" in for_dvc(study.dataset(name))]


def plan_erasure(repo: Repo, paths: Collection[str], shared: bool = False) -> ErasurePlan:
    """Return what is to be deleted.

    Args:
        repo: The project as DVC sees it.
        paths: The outputs, from the project's root.
        shared: Whether to delete also what other outputs hold with the same content.

    Raises:
        WorkflowError: If git, whose history has the earlier versions, cannot be asked.
    """
    root = Path(repo.root_dir)
    try:
        git(root, "rev-parse", "--git-dir")
    except WorkflowError as error:
        raise WorkflowError(f"git's history has the versions to be erased: {error}") from None
    stores, unsearched = stores_of(repo)
    versions, unreadable = known_versions(repo)
    known = set(_with_files(versions, stores))
    here = set(_in_workspace(root, paths))
    named = {one for one in known if _is_within(one.path, paths)} | here
    md5s = {one.md5 for one in named}
    same_content = {one for one in known - named if one.md5 in md5s}
    kept = set() if shared else {one.md5 for one in same_content}

    deleted = named
    if shared:
        deleted = named | same_content
        here |= set(_in_workspace(root, {one.path for one in same_content}))
    holders: dict[str, list[str]] = {}  # of each object
    for name, store in stores.items():
        for md5 in store.list_oids_exists(md5s - kept):
            holders.setdefault(md5, []).append(name)
    places = {
        one: [WORKSPACE] * (one in here) + holders.get(one.md5, []) for one in sorted(deleted)
    }
    places = {one: at for one, at in places.items() if at}

    unknown = [
        *(f"what {name} records: it cannot be read" for name in unreadable),
        *_unlisted(named, stores),
    ]
    if git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        unknown.append("the commits that this shallow clone lacks: git fetch --unshallow")
    return ErasurePlan(
        list(paths), places, sorted(same_content) if kept else [], stores, unsearched, unknown
    )


def _unlisted(versions: Iterable[Version], stores: Stores) -> Iterator[str]:
    """Yield in words which folders are known though not what was in them."""
    for one in sorted(versions):
        if one.md5.endswith(DIRECTORY) and _listing(one.md5, stores) is None:
            yield f"the files of {one.path} when it was {one.md5}: their listing is gone"


def erase(repo: Repo, plan: ErasurePlan) -> list[str]:
    """Delete what is planned; return in words what could not be deleted."""
    root = Path(repo.root_dir)
    with lock_repo(repo):
        files = [one.path for one, at in plan.versions.items() if WORKSPACE in at]
        failures = [*_delete_files(root, [*files, *plan.paths])]
        for name, store in plan.stores.items():
            md5s = {one.md5 for one, at in plan.versions.items() if name in at}
            failures += [f"{name} still has {rest}" for rest in _delete_objects(store, md5s)]
    return failures


def _delete_files(root: Path, paths: Iterable[str]) -> Iterator[str]:
    """Delete files, and folders with all that is in them; yield in words which are still there."""
    for name in dict.fromkeys(paths):
        path, reason = root / name, ""
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            reason = f": {error.strerror}"
        if os.path.lexists(path):
            yield f"{WORKSPACE} still has {name}{reason}"


def _delete_objects(store: HashFileDB, md5s: Collection[str]) -> Iterator[str]:
    """Delete objects; yield those that are still there, or may be, with the reason."""
    reasons = {}
    for md5 in md5s:
        try:
            store.delete(md5)
        except FileNotFoundError:
            continue
        except Exception as error:  # each kind of remote fails in its own way
            reasons[md5] = f": {error}"
    get_index(store).clear()  # else DVC goes on believing that they are there
    for md5 in sorted({*store.list_oids_exists(md5s), *reasons}):
        yield f"{md5}{reasons.get(md5, '')}"


def record_erasure(project: Path, study: str, plan: ErasurePlan, purpose: str | None) -> None:
    """Note which of the planned outputs are no longer here, for whom and since when.

    If nothing was left to be deleted, only what is not noted yet: a command may have been killed
    after it had deleted.

    Args:
        project: The project's root.
        study: Whose outputs they are.
        plan: What was deleted.
        purpose: For whom or what; None if that was not said.
    """
    known = read_erasures(project, study)
    noted = {path for one in known if purpose in (None, one.purpose) for path in one.paths}
    gone = {path for path in plan.paths if not os.path.lexists(project / path)}
    new = tuple(sorted(gone if plan.versions else gone - noted))
    if not new:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = [one.date for one in known if {*new} <= {*one.paths}]
    date = now if plan.versions or not before else before[-1]  # of what was named for others, too
    rows = [
        {"date": one.date, "for": one.purpose, "paths": list(one.paths)}
        for one in (*known, Erasure(date, new, purpose))
    ]
    write_text(project / erasures_file(study), text_of(rows))


def not_reached(plan: ErasurePlan, outputs: dict[str, bool]) -> list[str]:
    """Return in words what the erasure has not reached though nothing went wrong.

    Args:
        plan: What was deleted.
        outputs: Paths, each with whether DVC caches it.
    """
    in_git = [f"the commits that hold {path}" for path, cached in outputs.items() if not cached]
    return plan.unknown + in_git + BEYOND


def stores_of(repo: Repo) -> tuple[Stores, list[str]]:
    """Return the stores that can be searched, and in words what is wrong with the others."""
    stores, wrong = {"cache": repo.cache.local}, []
    for remote in repo.config["remote"]:
        try:
            store = repo.cloud.get_remote_odb(remote, "erase")
            is_bucket = isinstance(store.fs, ObjectFileSystem)  # which has no empty folders
            top = store.path.partition("/")[0] if is_bucket else store.path
            if not store.fs.exists(store.path) and not store.fs.exists(top):
                raise FileNotFoundError(f"there is no {store.fs.unstrip_protocol(top)}")
            stores[f"remote {remote}"] = store
        except Exception as error:  # each kind of remote fails in its own way
            wrong.append(f"remote {remote}: {error}")
    return stores, wrong


def known_versions(repo: Repo) -> tuple[set[Version], list[str]]:
    """Return all that any lock file has as an output, and which of these cannot be read."""
    versions, unreadable = set[Version](), list[str]()
    run_cache = Path(repo.stage_cache.cache_dir)
    for name, folder, text in _lock_files(Path(repo.root_dir), run_cache):
        try:
            stages = locked_stages(text)
        except NO_LOCK:  # a merge's conflict may have been committed
            unreadable.append(name)
            continue
        for stage in stages.values():
            for path, (md5, size) in stage.outs.items():
                versions.add(Version(str(folder / path), md5, size))
    return versions, unreadable


def _lock_files(root: Path, run_cache: Path) -> Iterator[tuple[str, PurePosixPath, str]]:
    """Yield each lock file's name, the folder from which its paths lead, and its text.

    Those of a `.dvc` file lead from where it lies, those of a dvc.lock from the root.
    """

    def folder(name: str) -> PurePosixPath | None:
        path = PurePosixPath(name)
        if path.name == LOCK:
            return PurePosixPath(".")
        return path.parent if path.suffix == ".dvc" else None  # .dvc, a folder, has no suffix

    for name in git(root, "ls-files", "-coz", "--exclude-standard").split("\0"):
        if (place := folder(name)) and (root / name).is_file():
            yield name, place, (root / name).read_text(encoding="utf-8", errors="replace")
    everywhere = ("--all", "--reflog", "--indexed-objects", "--objects")
    for line in git(root, "rev-list", *everywhere).splitlines():
        sha, _, name = line.partition(" ")
        if place := folder(name):
            yield (
                f"{name} in the object {sha[:12]} of git",
                place,
                git(root, "cat-file", "blob", sha),
            )
    for path in run_cache.glob("*/*/*"):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield f"the run-cache's {path.name[:12]}", PurePosixPath("."), text


def _with_files(versions: Iterable[Version], stores: Stores) -> Iterator[Version]:
    """Yield the versions, and what lies in those that are folders and whose listing is left."""
    for version in versions:
        yield version
        if version.md5.endswith(DIRECTORY):
            for key, meta, info in _listing(version.md5, stores) or ():
                yield Version("/".join([version.path, *key]), info.value, meta.size)


def _listing(md5: str, stores: Stores) -> Tree | None:
    """Return the listing of a folder from the first store that has it."""
    for store in stores.values():
        try:
            return Tree.load(store, HashInfo("md5", md5))
        except (FileNotFoundError, ObjectFormatError):
            continue
    return None


def _in_workspace(root: Path, paths: Iterable[str]) -> Iterator[Version]:
    """Yield the files that lie at the paths, whether a lock file knows them or not."""
    files = [file for path in paths for file in files_of(root / path)]
    for file, (md5, _, size) in file_digests(files).items():
        yield Version(str(file.relative_to(root)), md5, size)


def _is_within(path: str, paths: Iterable[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in paths)
