"""Where a replay must give the same bytes; `tests/workflow` makes a delta again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from kedro_dvc import records
from kedro_dvc.records import RunRecords, machine, record_path
from seuf.audit.replay import same_arithmetic

NODE = Node(lambda: 1, None, "out", name="methods.seuf_ga.unlearn")


@pytest.fixture
def study(tmp_path: Path) -> Any:
    return SimpleNamespace(project=tmp_path, name="mine")


def ran_on(study: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any]) -> None:
    """Leave the record of a run in an environment."""
    monkeypatch.setattr(records, "machine", lambda: environment)
    hook = RunRecords()
    hook.after_context_created(SimpleNamespace(project_path=study.project, env=study.name))
    hook.before_pipeline_run()
    hook.after_node_run({})
    hook.after_pipeline_run(Pipeline([NODE]), DataCatalog({"out": object()}))


def test_on_the_kind_of_processor_and_torch_of_then(study, monkeypatch):
    ran_on(study, monkeypatch, machine())

    assert same_arithmetic(study, NODE)


@pytest.mark.parametrize(
    "other",
    [{"processor": "another"}, {"packages": {**machine()["packages"], "torch": "1.0"}}],
    ids=["another processor", "another torch"],
)
def test_elsewhere_not(study, monkeypatch, other):
    ran_on(study, monkeypatch, {**machine(), **other})

    assert not same_arithmetic(study, NODE)


def test_a_record_that_is_missing_or_broken_excuses_nothing(study, monkeypatch):
    assert same_arithmetic(study, NODE)

    ran_on(study, monkeypatch, {**machine(), "processor": "another"})
    path = record_path(study.project, study.name, NODE.name)
    path.write_text(json.dumps({**json.loads(path.read_text()), "environment": "none"}))

    assert same_arithmetic(study, NODE)
