"""What the project adds to every Kedro run."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from seuf.errors import InputError


class StudyHooks:
    """Checks the study before anything runs, and says in one line what is wrong with it."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Make the study known to the registry and check its parameters."""
        from seuf.kedro_dvc.project.study import check_study
        from seuf.pipelines.parameters import check_parameters

        sys.excepthook = _one_line_for_input_errors
        os.environ["KEDRO_ENV"] = check_study(context.project_path, context.env or "base")
        check_parameters(context.config_loader["parameters"])


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
