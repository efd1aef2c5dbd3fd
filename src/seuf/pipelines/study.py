"""The current study: a folder of conf/ on top of conf/base."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kedro.framework.project import settings
from kedro.pipeline import Pipeline
from kedro.utils import find_kedro_project


def study_parameters() -> dict[str, Any]:
    """Return the parameters of the study that KEDRO_ENV names; without it, conf/base.

    Pipelines are built before Kedro has a context, and their shape depends on the study: they have
    a namespace for each method, and nodes for its benchmark and its source of the base model.
    """
    return _configuration(*_project_and_env())["parameters"]


def study_name() -> str:
    """Return the name that the study gives itself in its globals."""
    return str(_configuration(*_project_and_env())["globals"]["study"])


def methods() -> list[str]:
    """Return the names of the study's methods in the order of its table."""
    return list(study_parameters()["methods"])


def is_sweep(parameters: Mapping[str, Any], objective: str | None = None) -> bool:
    """Return whether pilots of a study record every layer's path (`PilotSettings.sweep`).

    Args:
        parameters: The study's parameters, not yet checked.
        objective: Consider only pilots with this objective; by default any.
    """
    sweep = (parameters.get("pilot") or {}).get("sweep")
    return bool(sweep) if objective is None or sweep is True else objective in (sweep or [])


def permission() -> list[str]:
    """Return the input that makes training wait for the preflight; none without a preflight."""
    return [] if study_parameters().get("preflight") is None else ["preflight_passed"]


def commit() -> str | None:
    """Return the commit that is checked out, and whether code or configuration differ from it."""
    # a user's git may be configured to ignore untracked files
    status = ("status", "--porcelain", "--untracked-files=all", "src", "conf")
    try:
        head, changed = (
            subprocess.run(["git", *command], capture_output=True, text=True, check=True).stdout
            for command in (("rev-parse", "HEAD"), status)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head[:10]}{' with changes' if changed.strip() else ''}"


def in_one_box(pipeline: Pipeline) -> Pipeline:
    """Return the nodes of all methods in one namespace, which kedro-viz shows as one box."""
    return Pipeline(pipeline, namespace="methods", prefix_datasets_with_namespace=False)


def _project_and_env() -> tuple[Path | None, str]:
    return find_kedro_project(Path.cwd()), os.environ.get("KEDRO_ENV") or "base"


@cache
def _configuration(project: Path | None, env: str) -> Mapping[str, Any]:
    if project is None:
        raise FileNotFoundError(f"{Path.cwd()} is not inside a Kedro project.")
    conf = str(project / settings.CONF_SOURCE)
    loader = settings.CONFIG_LOADER_CLASS(conf, env=env, **settings.CONFIG_LOADER_ARGS)
    return {name: loader[name] for name in ("parameters", "globals")}
