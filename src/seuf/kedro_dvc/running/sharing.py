"""Data that stages of one process share: loaded once, by the first that reads it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import AbstractDataset, DataCatalog

from seuf.kedro_dvc.files import files_of, path_of

log = logging.getLogger(__name__)


class _Kept(NamedTuple):
    stamp: Hashable  # of the files
    data: Any
    fingerprint: Hashable  # of the data


_kept: dict[str, _Kept] = {}  # by path; one at most
_sharing = False


@contextmanager
def sharing() -> Iterator[None]:
    """Keep what the catalog asks to keep (`metadata: {dvc: {keep: true}}`) until the end."""
    global _sharing
    _sharing = True
    try:
        yield
    finally:
        _sharing = False
        _kept.clear()


class SharingCatalog(DataCatalog):
    """Kedro's catalog; while `sharing`, what is to be kept is loaded again only if it has changed.

    Changed are the files, or the data: a data set that has a method `fingerprint` is asked for
    that of the data, which tells if a node wrote to what it was given.
    """

    def load(self, name: str, version: str | None = None) -> Any:
        """Return the data of a data set."""
        dataset = self.get(name)
        path = path_of(dataset)
        if not _sharing or dataset is None or path is None or not _is_kept(dataset):
            return super().load(name, version)
        stamp, kept = _stamp(path), _kept.get(str(path))
        if kept is not None and kept.stamp == stamp and kept.fingerprint == _of(dataset, kept.data):
            log.debug("Sharing data from %s", name)
            return kept.data
        _kept.clear()  # before the new one is loaded: two may not fit
        data = super().load(name, version)
        _kept[str(path)] = _Kept(stamp, data, _of(dataset, data))
        return data


def _is_kept(dataset: AbstractDataset[Any, Any]) -> bool:
    metadata = getattr(dataset, "metadata", None) or {}
    return bool(metadata.get("dvc", {}).get("keep"))


def _of(dataset: AbstractDataset[Any, Any], data: Any) -> Hashable:
    fingerprint = getattr(dataset, "fingerprint", None)
    return fingerprint(data) if fingerprint else None


def _stamp(path: Path) -> Hashable:
    """Return what changes when a file, or one in a folder, is written."""
    facts = ((file, file.stat()) for file in files_of(path))
    return tuple((str(file), s.st_ino, s.st_size, s.st_mtime_ns) for file, s in facts)
