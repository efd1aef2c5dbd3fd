"""A study's run in MLflow: one run in the place of one a stage.

With kedro-mlflow installed (the extra `mlflow`) and an `mlflow.yml` in conf/base or the study, the
stage that writes the report logs the study's parameters, the numbers of every method, the report
and the digest of each delta. kedro-mlflow's own hook, which settings.py turns off, would begin a
run for each stage; its configuration and its commands are used as they are. Nothing of MLflow is
imported before the report is there: that takes seconds.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from kedro_dvc.configuration import BASE
from kedro_dvc.dependencies import commit_of
from kedro_dvc.files import path_of
from kedro_dvc.hashing import sha256s
from seuf import __version__
from seuf.pipelines.headline.nodes import write_headline

LAST = "report"  # the run is logged when this is written
NUMBERS = ("metrics", "spread_metrics")  # a study has one of them
PAGES = (LAST, "comparison_markdown", "spread_markdown")
DELTA = "delta"
LONGEST = 6000  # characters of a parameter's value that MLflow takes

log = logging.getLogger(__name__)


class MlflowRun:
    """Logs a study once its report is written."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the study; let `kedro mlflow` find its configuration."""
        self._context = context if _is_asked_for(context) else None
        if self._context is not None:
            context.__setattr__("mlflow", _Configuration(context))  # the class is frozen

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Log the study; what MLflow raises is told and fails no stage."""
        if self._context is None or LAST not in pipeline.all_outputs():
            return
        try:
            log_study(self._context, catalog)
        except Exception as error:  # a server, a store, a limit: the study itself is done
            log.warning("MLflow has no record of this run: %s: %s", type(error).__name__, error)


def log_study(context: KedroContext, catalog: CatalogProtocol) -> None:
    """Make one MLflow run of a study whose report is written.

    A run that is active already, as an orchestrator's, is used and left open.

    Args:
        context: Of the study, with kedro-mlflow's configuration as `mlflow`.
        catalog: Of the study.
    """
    import mlflow

    study, parameters = context.env or BASE, context.config_loader["parameters"]
    begun = nullcontext() if mlflow.active_run() else _new_run(context, study)
    with begun:
        mlflow.set_tags(_tags(Path(context.project_path), study))
        mlflow.set_tags(_digests(parameters["methods"], catalog))
        texts = {name: str(value)[:LONGEST] for name, value in flat(parameters)}
        mlflow.log_params(texts)
        for metrics in (catalog.load(name) for name in NUMBERS if _there(catalog, name)):
            mlflow.log_metrics(write_headline(metrics) | dict(flat(metrics)))
        for path in (_there(catalog, name) for name in PAGES):
            if path is not None:
                mlflow.log_artifact(str(path))


def _new_run(context: KedroContext, study: str) -> Any:
    import mlflow

    tracking = context.mlflow.tracking  # type: ignore[attr-defined] # sets up the store
    experiment = tracking.experiment._experiment.experiment_id
    name = tracking.run.name or study
    return mlflow.start_run(run_id=tracking.run.id, experiment_id=experiment, run_name=name)


def _tags(project: Path, study: str) -> dict[str, str]:
    commit, clean = commit_of(project)
    made_by = {"mlflow.source.git.commit": commit, "clean": str(clean)} if commit else {}
    return {"study": study, "seuf": __version__, **made_by}


def _digests(methods: Mapping[str, Any], catalog: CatalogProtocol) -> dict[str, str]:
    """Return SHA-256 of each delta's file, as the certificate of its audit names it."""
    paths = {f"{method}.{DELTA}": _there(catalog, f"{method}.{DELTA}") for method in methods}
    known = sha256s(path for path in paths.values() if path is not None)
    return {name: known[path] for name, path in paths.items() if path is not None}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a tree of mappings holds, with the keys on the way joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _there(catalog: CatalogProtocol, name: str) -> Path | None:
    """Return where a data set's file lies, None if it is not there."""
    path = path_of(catalog.get(name))
    return path if path is not None and path.exists() else None


def _is_asked_for(context: KedroContext) -> bool:
    """Return whether kedro-mlflow is installed, and configured for base or the study."""
    conf, study = Path(context.config_loader.conf_source), context.env or BASE
    found = any(any((conf / name).glob("mlflow*.y*ml")) for name in (BASE, study))
    return found and importlib.util.find_spec("kedro_mlflow") is not None


class _Configuration:
    """kedro-mlflow's own, read when it is first used; it then takes this one's place."""

    def __init__(self, context: KedroContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read, name)

    @cached_property
    def _read(self) -> Any:
        from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

        MlflowHook().after_context_created(self._context)
        return self._context.mlflow  # type: ignore[attr-defined]
