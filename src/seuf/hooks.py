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
        from seuf.lineage.study import check_study
        from seuf.pipelines.parameters import check_parameters

        sys.excepthook = _one_line_for_input_errors
        os.environ["KEDRO_ENV"] = check_study(context.project_path, context.env or "base")
        check_parameters(context.config_loader["parameters"])


class Cleanliness:
    """What DVC leaves to the command it runs."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Die with the DVC process that started this one: an orphan must not write outputs."""
        if os.environ.get("DVC_STAGE") and sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Refuse to run a stage that dvc.yaml describes otherwise than the project does."""
        if stage := os.environ.get("DVC_STAGE"):
            from seuf.lineage.study import running_study
            from seuf.lineage.sync import check_stage

            project, name = Path(run_params["project_path"]), run_params["env"] or "base"
            check_stage(running_study(project, name), stage)

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
    """Print the message alone if something given is wrong or missing, else the traceback."""
    cause: Any = error
    while cause is not None:
        if isinstance(cause, (InputError, FileNotFoundError)):
            sys.stderr.write(f"error: {cause}\n")
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)
