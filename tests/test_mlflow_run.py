"""A study is one run in MLflow, with a store in a local file."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from seuf import mlflow_run
from seuf.mlflow_run import MlflowRun, flat

STAGES = [Pipeline([Node(repr, "delta", "scores")]), Pipeline([Node(repr, "metrics", "report")])]
ROW = {"trained_share": 1.0, "utility_at_75": 0.5}
METRICS = {"original": {"utility": 0.75, "trained_share": 0.0}, "full_ga": ROW}


@pytest.fixture
def study(tmp_path, monkeypatch) -> tuple[Any, DataCatalog]:
    """The context and catalog of a study `mine` that has a report, metrics and one delta."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "conf/base/parameters.yml": "methods: {original: {}, full_ga: {objective: ga}}\nseed: 3\n",
        "conf/mine/mlflow.yml": "server: {mlflow_tracking_uri: sqlite:///runs.db}\n",
        "delta.safetensors": "weights",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    entries = {"metrics": "json.JSONDataset", "report": "text.TextDataset"}
    catalog = DataCatalog.from_config(
        {name: {"type": kind, "filepath": str(tmp_path / name)} for name, kind in entries.items()}
        | {"{method}.delta": {"type": "text.TextDataset", "filepath": "{method}.safetensors"}}
    )
    (tmp_path / "delta.safetensors").rename(tmp_path / "full_ga.safetensors")
    catalog.save("metrics", METRICS)
    catalog.save("report", "<p>What is left.</p>")
    conf = OmegaConfigLoader(str(tmp_path / "conf"), env="mine", base_env="base")
    own = {"project_path": tmp_path, "env": "mine", "_package_name": "seuf"}
    context = SimpleNamespace(config_loader=conf, _get_config_credentials=dict, **own)
    return context, catalog


def run(study: tuple[Any, DataCatalog]) -> None:
    """Go through the hooks as two stages in processes of their own do."""
    context, catalog = study
    for stage in STAGES:
        hook = MlflowRun()
        hook.after_context_created(context)
        hook.after_pipeline_run(stage, catalog)


def test_a_study_is_one_run_with_parameters_numbers_report_and_digests(study, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("kedro_mlflow", reason="the extra mlflow is not installed")

    run(study)

    (made,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert (made.info.run_name, made.info.status) == ("mine", "FINISHED")
    assert made.data.params == {
        "methods.original": "{}",
        "methods.full_ga.objective": "ga",
        "seed": "3",
    }
    assert made.data.metrics["full_ga.utility_at_75"] == 0.5
    assert made.data.metrics["UT75_everything"] == 0.5
    assert made.data.tags["study"] == "mine"
    assert made.data.tags["full_ga.delta"] == digest
    assert "original.delta" not in made.data.tags
    (page,) = mlflow.artifacts.list_artifacts(run_id=made.info.run_id)
    assert page.path == "report"


def test_a_study_without_a_configuration_of_mlflow_is_not_logged(study, monkeypatch):
    monkeypatch.setattr(mlflow_run, "log_study", lambda *_: pytest.fail("it was logged"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    Path("conf/mine/mlflow.yml").unlink()

    run(study)


def test_a_store_that_cannot_be_reached_fails_no_stage(study, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise ConnectionError("no such server")

    monkeypatch.setattr(mlflow_run, "log_study", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())

    with caplog.at_level(logging.WARNING):
        run(study)

    assert caplog.messages == ["MLflow has no record of this run: ConnectionError: no such server"]


def test_keys_are_joined_and_an_empty_mapping_is_a_value():
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": 2})) == {"a.b": 1, "a.c": {}, "d": 2}
