"""What the project adds to every Kedro run."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Node

from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.datasets.progress import FileProgress


class StudyHooks:
    """Checks the study before anything runs, and says in one line what is wrong with it."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Make the study known to the registry and check its parameters."""
        from kedro_dvc.project import check_study
        from seuf.pipelines.parameters import check_parameters

        self._unfinished: list[FileProgress] = []
        sys.excepthook = _one_line_for_input_errors
        os.environ["KEDRO_ENV"] = check_study(context.project_path, context.env or "base")
        check_parameters(context.config_loader["parameters"])

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> dict[str, Any]:
        """Give a node that can go on where it was killed a file of its own."""
        from seuf.datasets.progress import FileProgress

        name = (node.namespace or node.name).rpartition(".")[2]
        found = inputs.items()
        own = {key: one.of(name) for key, one in found if isinstance(one, FileProgress)}
        self._unfinished += own.values()
        return own

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Delete these files: all outputs are saved."""
        for progress in self._unfinished:
            progress.delete()


def _one_line_for_input_errors(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the message alone if something given is wrong or missing, else the traceback."""
    cause: Any = error
    seen: set[int] = set()  # causes can go round in a circle
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, (InputError, FileNotFoundError)):
            sys.stderr.write(f"error: {cause}\n")
            return
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)
