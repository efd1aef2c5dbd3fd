"""What the project adds to every Kedro run."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any, cast

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node

from kedro_dvc.files import problem_of_disk
from seuf.determinism import NO_SUCH_IMPLEMENTATION, SWITCH, asked_for, set_deterministic
from seuf.inputs import InputError

log = logging.getLogger(__name__)

# What Kedro logs of an error that is printed at the end anyway, by logger
TOLD_ELSEWHERE = {
    "kedro.pipeline.node": "failed with error",
    "kedro.runner.sequential_runner": "No nodes ran",
}


class StudyHooks:
    """Checks the study before anything runs, and says in one line what is wrong with it."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Make the study known to the registry and check its parameters, from the root."""
        from kedro_dvc.configuration import StudyConfigLoader, naming
        from kedro_dvc.project import check_study
        from seuf.parameters import check_parameters

        loader = cast(StudyConfigLoader, context.config_loader)  # as settings.py says
        project = context.project_path
        sys.excepthook = partial(
            _one_line_for_input_errors, naming=partial(naming, project, loader)
        )
        for name in TOLD_ELSEWHERE:
            logging.getLogger(name).addFilter(_is_not_told_elsewhere)
        os.chdir(context.project_path)  # `kedro run` may be called from below it
        os.environ["KEDRO_ENV"] = check_study(context.project_path, context.env or "base")
        check_parameters(context.config_loader["parameters"])

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Let training be deterministic."""
        set_deterministic(asked_for(catalog, node.outputs))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Give back what torch keeps of a GPU's memory: a process may go on to another stage."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()

    @hook_impl
    def on_node_error(self, error: Exception) -> None:
        """Say what to do if a model needs what torch cannot compute deterministically."""
        if NO_SUCH_IMPLEMENTATION in str(error):
            log.error("Set %s=0 to let sums be made in any order.", SWITCH)


def _is_not_told_elsewhere(record: logging.LogRecord) -> bool:
    told = TOLD_ELSEWHERE.get(record.name)
    return told is None or told not in record.getMessage()


def folders(*paths: str) -> list[str]:
    """Return those of the paths that are folders, and no ids of the Hugging Face hub.

    An id has at most one slash, and there is no folder here that has the name of its first part.
    """
    return [str(Path(path).expanduser()) for path in paths if path and _is_folder(path)]


def _is_folder(path: str) -> bool:
    first = path.split("/")[0]
    return path.count("/") > 1 or first in ("", ".", "..", "~") or Path(first).is_dir()


def _one_line_for_input_errors(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    naming: Callable[[str], str] | None = None,
) -> None:
    """Print the message alone if something given is wrong or missing, else the traceback.

    Args:
        kind: As Python gives it to `sys.excepthook`; the next two too.
        error: The error.
        trace: Its traceback.
        naming: What says which key names a file that is missing.
    """
    cause: Any = error
    seen: set[int] = set()  # causes can go round in a circle
    while cause is not None and id(cause) not in seen:
        known = isinstance(cause, (InputError, FileNotFoundError))
        if problem := cause if known else problem_of_disk(cause):
            missing = getattr(cause, "filename", None) or getattr(cause.__cause__, "filename", None)
            if naming and missing and (key := naming(str(missing))):
                problem = f"{str(problem).rstrip('.')}{key}."
            sys.stderr.write(f"error: {problem}\n")
            return
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    if wrong := _named_by_no_pipeline(error, trace):
        sys.stderr.write(f"error: {wrong}\n")
        return
    sys.__excepthook__(kind, error, trace)


def _named_by_no_pipeline(error: BaseException, trace: TracebackType | None) -> str | None:
    """Return what options of `kedro run` ask for in vain; None if the error is another.

    Kedro raises plain errors for it, so they are known by the function that raised them.
    """
    calls = [(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in walk_tb(trace)]
    if isinstance(error, ValueError) and ("kedro.pipeline.pipeline", "filter") in calls:
        return f"{error} (`kedro registry describe` lists the nodes)"
    if calls[-1:] == [("kedro.framework.project", "find_pipelines")] and not error.__cause__:
        name = str(error).rpartition(".pipelines.")[2].partition("'")[0]
        return f"There is no pipeline {name!r}; `kedro registry list` names them."
    return None
