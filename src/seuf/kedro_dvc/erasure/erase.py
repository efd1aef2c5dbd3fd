"""Delete the bytes of data sets wherever DVC keeps them, and leave their hashes in dvc.lock.

Every version that `versions` knows is deleted, from the workspace and from all `places`. An object
that another output holds too is kept unless that is asked for.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo, lock_repo
from dvc_data.hashfile.db import HashFileDB
from tabulate import tabulate

from seuf.kedro_dvc.erasure.places import Place, delete, holders, places
from seuf.kedro_dvc.erasure.versions import (
    DIRECTORY,
    Version,
    known_versions,
    listing,
    lying,
    md5_of,
    unknown_versions,
    with_files,
)
from seuf.kedro_dvc.errors import WorkflowError
from seuf.kedro_dvc.generation.outputs import for_dvc
from seuf.kedro_dvc.project.study import Study

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
