"""What DVC leaves to the commands it runs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol


class Cleanliness:
    """No orphan writes outputs, and nothing is written through a link into DVC's cache."""

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
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Replace a file that is a link into the cache; a folder is left to its data set."""
        path = Path(str(getattr(self._catalog.get(dataset_name), "_filepath", "")))
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            path.unlink()
