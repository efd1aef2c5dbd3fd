"""What the project adds to every Kedro run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol

from seuf.errors import InputError


class StudyHooks:
    """Checks the study before anything runs, and says in one line what is wrong with it."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Make the study known to the registry and check its parameters."""
        from seuf.pipelines.parameters import check_parameters

        os.environ["KEDRO_ENV"] = context.env or "base"
        sys.excepthook = _one_line_for_input_errors
        check_parameters({k: v for k, v in context.params.items() if k != "env"})


class Cleanliness:
    """What DVC leaves to the command it runs."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Die with the DVC process that started this one: an orphan must not write outputs."""
        if os.environ.get("DVC_STAGE") and sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        """Remember the catalog."""
        self._catalog = catalog

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Replace a file that is a link into the DVC cache instead of writing through it."""
        path = Path(str(getattr(self._catalog.get(dataset_name), "_filepath", "")))
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            path.unlink()


def _one_line_for_input_errors(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the message alone where the user's input is at fault, else the whole traceback."""
    cause: Any = error
    while cause is not None:
        if isinstance(cause, InputError):
            sys.stderr.write(f"error: {cause}\n")
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)
