"""Log a study in MLflow as one run, not one per stage.

With kedro-mlflow installed (the extra `mlflow`) and an `mlflow.yml` in conf/base or the study, the
stage that writes the report logs the study's parameters, every method's metrics, the report and the
digest of each delta. kedro-mlflow's own hook, which settings.py turns off, would start a run for
each stage; its configuration and commands are used unchanged. MLflow is imported only after the
report is written: the import takes seconds.
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

REPORT = "report"  # the run is logged once this data set is written
METRICS = ("metrics", "spread_metrics")  # a study has one of them
PAGES = (REPORT, "comparison_markdown", "spread_markdown")
DELTA = "delta"
LONGEST = 6000  # MLflow's limit on a parameter's value, in characters

log = logging.getLogger(__name__)


class MlflowRun:
    """Log a study once its report is written."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the context; give `kedro mlflow` its configuration."""
        self._context = context if _is_configured(context) else None
        if self._context is not None:
            context.__setattr__("mlflow", _Configuration(context))  # the class is frozen

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Log the study; an error of MLflow is only a warning and fails no stage."""
        if self._context is None or REPORT not in pipeline.all_outputs():
            return
        try:
            log_study(self._context, catalog)
        except Exception as error:  # whatever MLflow raises, the study itself has finished
            log.warning("MLflow has no record of this run: %s: %s", type(error).__name__, error)


def log_study(context: KedroContext, catalog: CatalogProtocol) -> None:
    """Log a study whose report is written as one MLflow run.

    An active run, such as an orchestrator's, is used and left open.

    Args:
        context: The study's context, with kedro-mlflow's configuration as `mlflow`.
        catalog: The study's catalog.
    """
    import mlflow

    study, parameters = context.env or BASE, context.config_loader["parameters"]
    with nullcontext() if mlflow.active_run() else _new_run(context, study):
        mlflow.set_tags(_tags(Path(context.project_path), study))
        mlflow.set_tags(_digests(parameters["methods"], catalog))
        texts = {name: str(value)[:LONGEST] for name, value in flat(parameters)}
        mlflow.log_params(texts)
        for metrics in (catalog.load(name) for name in METRICS if _existing_file(catalog, name)):
            mlflow.log_metrics(write_headline(metrics) | dict(flat(metrics)))
        for page in (_existing_file(catalog, name) for name in PAGES):
            if page is not None:
                mlflow.log_artifact(str(page))


def _new_run(context: KedroContext, study: str) -> Any:
    import mlflow

    tracking = context.mlflow.tracking  # type: ignore[attr-defined] # this access sets up the store
    experiment = tracking.experiment._experiment.experiment_id
    name = tracking.run.name or study
    return mlflow.start_run(run_id=tracking.run.id, experiment_id=experiment, run_name=name)


def _tags(project: Path, study: str) -> dict[str, str]:
    commit, clean = commit_of(project)
    source = {"mlflow.source.git.commit": commit, "clean": str(clean)} if commit else {}
    return {"study": study, "seuf": __version__, **source}


def _digests(methods: Mapping[str, Any], catalog: CatalogProtocol) -> dict[str, str]:
    """Return the SHA-256 of each delta's file, as in its certificate, by data set."""
    names = [f"{method}.{DELTA}" for method in methods]
    paths = {name: path for name in names if (path := _existing_file(catalog, name))}
    digests = sha256s(paths.values())
    return {name: digests[path] for name, path in paths.items()}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings, their keys joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _existing_file(catalog: CatalogProtocol, name: str) -> Path | None:
    """Return the path of a data set's file; None if it does not exist."""
    path = path_of(catalog.get(name))
    return path if path is not None and path.exists() else None


def _is_configured(context: KedroContext) -> bool:
    """Return whether kedro-mlflow is installed, and configured for base or the study."""
    conf, study = Path(context.config_loader.conf_source), context.env or BASE
    has_file = any(any((conf / name).glob("mlflow*.y*ml")) for name in (BASE, study))
    return has_file and importlib.util.find_spec("kedro_mlflow") is not None


class _Configuration:
    """kedro-mlflow's configuration, read on first use, when it replaces this object."""

    def __init__(self, context: KedroContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read, name)

    @cached_property
    def _read(self) -> Any:
        from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

        MlflowHook().after_context_created(self._context)
        return self._context.mlflow  # type: ignore[attr-defined]
