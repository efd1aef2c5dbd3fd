"""Sums on a GPU are made in one order wherever a model is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from kedro.pipeline import Node
from kedro_datasets.text import TextDataset

from kedro_dvc.project import load_study, study_names
from seuf.determinism import SWITCH, torch_facts
from seuf.hooks import StudyHooks
from seuf.unlearning.settings import UnlearningSettings

ROOT = Path(__file__).parents[1]
# One of each source of the base model, and the replication study.
QUICK = {"smoke", "sandbox_seeds", "tofu", "qwen_wmdp", "olmoe_muse"}
TRAINING = {
    "pretrain_base_model",
    "finetune_base_model",
    "pretrain_reference_model",
    "unlearn",
    "choose_layer",
    "run_methods",
}

pytestmark = pytest.mark.filterwarnings("ignore:One or more dataset names")


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def on_gpu(monkeypatch):
    """Let torch say that there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def begin(metadata: dict[str, Any] | None) -> bool:
    """Let a node begin whose second output has this metadata; return torch's switch."""
    catalog = DataCatalog({"trained": TextDataset(filepath="x", metadata=metadata)})
    StudyHooks().before_node_run(Node(lambda: 1, None, ["log", "trained"], name="n"), catalog)
    return torch.are_deterministic_algorithms_enabled()


def test_a_node_is_deterministic_if_the_catalog_asks_for_it_and_the_next_is_not(on_gpu):
    assert begin({"torch": {"deterministic": True}})
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # attention needs that
    assert not begin({"torch": {"deterministic": False}})
    assert not begin({"dvc": {"keep": True}})
    assert not begin(None)


def test_without_a_gpu_nothing_is_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert not begin({"torch": {"deterministic": True}})


def test_the_switch_lets_sums_be_made_in_any_order(on_gpu, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")

    assert not begin({"torch": {"deterministic": True}})


@pytest.mark.parametrize(
    "study",
    [
        pytest.param(study, marks=[] if study in QUICK else pytest.mark.slow)
        for study in study_names(ROOT)
    ],
)
def test_every_node_that_trains_is_deterministic(study, on_gpu, monkeypatch):
    """Of all studies: also the base model's, and those of the replication study."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KEDRO_ENV", study)
    bootstrap_project(ROOT)
    loaded = load_study(ROOT, study)
    switched = {}
    for node in loaded.pipelines["__default__"].nodes:
        entries = {
            name: SimpleNamespace(metadata=loaded.dataset(name).get("metadata"))
            for name in node.outputs
        }
        StudyHooks().before_node_run(node, entries)
        switched[node.name] = node.func.__name__, torch.are_deterministic_algorithms_enabled()

    trains = {name for name, (function, _) in switched.items() if function in TRAINING}
    assert trains
    assert {name for name in trains if not switched[name][1]} == set()


def test_an_operation_without_such_an_implementation_names_the_switch(caplog):
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))

    with caplog.at_level(logging.ERROR):
        StudyHooks().on_node_error(raised.value)

    assert f"{SWITCH}=0" in caplog.text


def test_other_errors_do_not(caplog):
    with caplog.at_level(logging.ERROR):
        StudyHooks().on_node_error(RuntimeError("CUDA out of memory"))

    assert caplog.text == ""


def test_threads_are_told_as_the_stage_asked_for_them_not_as_its_process_was_left():
    asked = {"base_model": "no settings", "unlearning": UnlearningSettings(threads=3)}

    assert torch_facts(asked)["torch"]["threads"] == 3
    assert torch_facts({})["torch"]["threads"] == 1
