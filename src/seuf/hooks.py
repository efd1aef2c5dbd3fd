"""Hooks into every Kedro run: check the study, set determinism, shorten errors."""

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

# by logger, Kedro's messages about an error that is printed at the end anyway
REPEATED_MESSAGES = {
    "kedro.pipeline.node": "failed with error",
    "kedro.runner.sequential_runner": "No nodes ran",
}


class StudyHooks:
    """Check the study before anything runs, and report what is wrong with it in one line."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Change to the root, tell the pipeline registry the study, and check its parameters."""
        from kedro_dvc.configuration import StudyConfigLoader, naming
        from kedro_dvc.project import check_study
        from seuf.parameters import check_parameters

        loader = cast(StudyConfigLoader, context.config_loader)  # set in settings.py
        project = context.project_path
        sys.excepthook = partial(
            _one_line_for_input_errors, naming=partial(naming, project, loader)
        )
        for name in REPEATED_MESSAGES:
            logging.getLogger(name).addFilter(_is_not_repeated)
        os.chdir(context.project_path)  # `kedro run` may be called from a subfolder
        os.environ["KEDRO_ENV"] = check_study(context.project_path, context.env or "base")
        check_parameters(context.config_loader["parameters"])

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Make the node's computation deterministic if the catalog asks for it."""
        set_deterministic(asked_for(catalog, node.outputs))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Free the GPU memory that torch caches: this process may run another stage next."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()

    @hook_impl
    def on_node_error(self, error: Exception) -> None:
        """Say what to do if torch has no deterministic implementation of an operation."""
        if NO_SUCH_IMPLEMENTATION in str(error):
            log.error("Set %s=0 to let sums be made in any order.", SWITCH)


def _is_not_repeated(record: logging.LogRecord) -> bool:
    message = REPEATED_MESSAGES.get(record.name)
    return message is None or message not in record.getMessage()


def folders(*paths: str) -> list[str]:
    """Return the paths that name folders, not ids on the Hugging Face hub.

    An id has at most one slash, and its first part is not the name of a folder here.
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
    """Print only the message if an input is wrong or missing, else the traceback.

    Args:
        kind: The first argument of `sys.excepthook`, as the next two.
        error: The error.
        trace: Its traceback.
        naming: Returns which configuration key names a missing file, in words.
    """
    cause: Any = error
    seen: set[int] = set()  # the causes can form a cycle
    while cause is not None and id(cause) not in seen:
        is_known = isinstance(cause, (InputError, FileNotFoundError))
        if problem := cause if is_known else problem_of_disk(cause):
            missing = getattr(cause, "filename", None) or getattr(cause.__cause__, "filename", None)
            if naming and missing and (key := naming(str(missing))):
                problem = f"{str(problem).rstrip('.')}{key}."
            sys.stderr.write(f"error: {problem}\n")
            return
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    if problem := _unknown_name(error, trace):
        sys.stderr.write(f"error: {problem}\n")
        return
    sys.__excepthook__(kind, error, trace)


def _unknown_name(error: BaseException, trace: TracebackType | None) -> str | None:
    """Return which name in the options of `kedro run` is unknown; None for any other error.

    Kedro raises plain errors for these, so they are recognised by the function that raised them.
    """
    calls = [(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in walk_tb(trace)]
    if isinstance(error, ValueError) and ("kedro.pipeline.pipeline", "filter") in calls:
        return f"{error} (`kedro registry describe` lists the nodes)"
    if calls[-1:] == [("kedro.framework.project", "find_pipelines")] and not error.__cause__:
        name = str(error).rpartition(".pipelines.")[2].partition("'")[0]
        return f"There is no pipeline {name!r}; `kedro registry list` names them."
    return None
