"""Where DVC keeps objects: its cache and the configured remotes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index
from dvc_objects.fs.base import ObjectFileSystem


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
