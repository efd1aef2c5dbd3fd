"""Safe outputs, and data that the stages of a run share."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog

from kedro_dvc.files import Stamp, WorkflowError, path_of, stamp

STAGE = "DVC_STAGE"  # DVC puts a stage's name into the environment of its command
WATCH = 0.1  # seconds between two looks at DVC
COPIES = 2  # the output, and what DVC's cache keeps of it
GB = 1e9

log = logging.getLogger(__name__)


class SafeOutputs:
    """Ends a stage with its DVC, and keeps outputs off full disks and out of DVC's cache."""

    @hook_impl
    def after_context_created(self) -> None:
        """Make this process end with the DVC process that started it."""
        if os.environ.get(STAGE):
            end_with_dvc()

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        """Remember the catalog."""
        self._catalog = catalog

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Delete a file that is a link into the cache; a folder is left to its data set.

        Raises:
            WorkflowError: If the disk has too little space for the bytes that the data set will
                write, as its method `size_of` tells if it has one.
        """
        dataset = self._catalog.get(dataset_name)
        path = path_of(dataset)
        if path is None:
            return
        if size_of := getattr(dataset, "size_of", None):
            _check_space(path, size_of(data))
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            path.unlink()


def end_with_dvc() -> None:
    """Make this process end with its DVC, which starts it in a shell.

    Most shells become the process. An older dash goes on as its parent, and outlives DVC.
    """
    end_with_parent()
    process = psutil.Process()
    if dvc := next((one for one in process.parents() if not _is_in_stage(one)), None):
        threading.Thread(target=_end_with, args=(process, dvc), daemon=True).start()


def _is_in_stage(process: psutil.Process) -> bool:
    """Return whether DVC started a process, or the process that did."""
    try:
        return STAGE in process.environ()
    except psutil.Error:  # it has ended, or is of another user
        return False


def _end_with(process: psutil.Process, other: psutil.Process) -> None:
    """Terminate a process once the other has ended; nobody may have asked for its exit code."""
    with suppress(psutil.NoSuchProcess):
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH)
    process.terminate()


def end_with_parent() -> None:
    """Make this process end with the one that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _check_space(path: Path, size: int) -> None:
    """Raise if the disk of a path lacks space for an output of this size in bytes."""
    folder = next(one for one in path.absolute().parents if one.exists())
    free = shutil.disk_usage(folder).free
    if free < COPIES * size:
        raise WorkflowError(
            f"{path} takes {size / GB:.1f} GB, and DVC's cache as much again; {free / GB:.1f} GB "
            f"are free in {folder}: make room, then run the stage again."
        )


class _Kept(NamedTuple):
    stamp: Stamp  # of the files
    data: Any
    fingerprint: Hashable  # of the data


_kept: dict[str, _Kept] = {}  # by path; one at most
_sharing = False


@contextmanager
def sharing() -> Iterator[None]:
    """Keep data marked `metadata: {dvc: {keep: true}}` in memory inside the context."""
    global _sharing
    _sharing = True
    try:
        yield
    finally:
        _sharing = False
        _kept.clear()


class SharingCatalog(DataCatalog):
    """Kedro's catalog; while `sharing`, it loads kept data again only if they have changed.

    Either the files have changed, or a node has modified the data in memory, which a data set's
    method `fingerprint` shows if it has one.
    """

    def load(self, name: str, version: str | None = None) -> Any:
        """Return the data of a data set."""
        dataset = self.get(name)
        path = path_of(dataset)
        metadata = getattr(dataset, "metadata", None) or {}
        if not _sharing or path is None or not metadata.get("dvc", {}).get("keep"):
            return super().load(name, version)
        state, kept = stamp(path), _kept.get(str(path))
        if (
            kept is not None
            and kept.stamp == state
            and kept.fingerprint == _fingerprint(dataset, kept.data)
        ):
            log.debug("Sharing data from %s", name)
            return kept.data
        _kept.clear()  # before loading: two may not fit into memory
        data = super().load(name, version)
        _kept[str(path)] = _Kept(state, data, _fingerprint(dataset, data))
        return data


def _fingerprint(dataset: object, data: Any) -> Hashable:
    fingerprint = getattr(dataset, "fingerprint", None)
    return fingerprint(data) if fingerprint else None
