"""What DVC leaves to the commands that it runs: outputs that are safe, and data that they share."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DataCatalog

from kedro_dvc.files import WorkflowError, path_of, stamp

COPIES = 2  # the output, and what DVC's cache keeps of it
GB = 1e9

log = logging.getLogger(__name__)


class SafeOutputs:
    """Lets no process outlive its DVC, and no output be written into DVC's cache or a full disk."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Let this process end with the DVC process that started it.

        Raises:
            WorkflowError: If DVC's stage names no study and the environment names another than
                base: it would run the nodes of that.
        """
        if not os.environ.get("DVC_STAGE"):
            return
        end_with_parent()
        base = getattr(context.config_loader, "base_env", "base")
        named = {word.partition("=")[0] for word in sys.argv} & {"--env", "-e"}
        if not named and (study := os.environ.get("KEDRO_ENV")) not in (None, "", base):
            raise WorkflowError(
                f"KEDRO_ENV is {study}, and this stage is one of {base}: unset KEDRO_ENV. Stages "
                f"of {study} are in studies/{study}/dvc.yaml."
            )

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        """Remember the catalog."""
        self._catalog = catalog

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Replace a file that is a link into the cache; a folder is left to its data set.

        Raises:
            WorkflowError: If a data set that can tell (by a method `size_of`) how many bytes it
                will write needs more than there are.
        """
        dataset = self._catalog.get(dataset_name)
        path = path_of(dataset)
        if path is None:
            return
        if size_of := getattr(dataset, "size_of", None):
            _check_space(path, size_of(data))
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            path.unlink()


def end_with_parent() -> None:
    """Let this process end with the one that has started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _check_space(path: Path, size: int) -> None:
    """Raise if the disk of a path has not enough space for an output of that many bytes."""
    folder = next(one for one in path.absolute().parents if one.exists())
    free = shutil.disk_usage(folder).free
    if free < COPIES * size:
        raise WorkflowError(
            f"{path} takes {size / GB:.1f} GB, and DVC's cache as much again; {free / GB:.1f} GB "
            f"are free in {folder}: free some, then run the stage again."
        )


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
    """Kedro's catalog; while `sharing`, it loads data to be kept again only if they have changed.

    The files may have changed, or the data: a data set that has a method `fingerprint` is asked for
    that of the data, which shows whether a node wrote to its input.
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
        _kept.clear()  # before the new one is loaded: two may not fit
        data = super().load(name, version)
        _kept[str(path)] = _Kept(state, data, _fingerprint(dataset, data))
        return data


def _fingerprint(dataset: object, data: Any) -> Hashable:
    fingerprint = getattr(dataset, "fingerprint", None)
    return fingerprint(data) if fingerprint else None
