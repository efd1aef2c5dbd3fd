"""What DVC leaves to the commands it runs."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol

from seuf.kedro_dvc.errors import WorkflowError
from seuf.kedro_dvc.files import path_of

COPIES = 2  # the output, and what DVC's cache keeps of it
GB = 1e9


class Cleanliness:
    """No orphan writes outputs, none goes through a link into DVC's cache, each has room."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Die with the DVC process that started this one."""
        if os.environ.get("DVC_STAGE") and sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

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
            check_space(path, size_of(data))
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            path.unlink()


def check_space(path: Path, size: int) -> None:
    """Raise if the disk of a path has no room for an output of that many bytes.

    Raises:
        WorkflowError: With what is needed and what is free.
    """
    there = next(one for one in path.absolute().parents if one.exists())
    free = shutil.disk_usage(there).free
    if free < COPIES * size:
        raise WorkflowError(
            f"{path} takes {size / GB:.1f} GB, and DVC's cache as much again; {free / GB:.1f} GB "
            f"are free in {there}: free some, then run the stage again."
        )
