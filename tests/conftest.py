"""What all tests share: seuf is imported before torch, and nothing asks the network."""

# ruff: noqa: I001 - the order of the imports matters here

from __future__ import annotations

import seuf  # noqa: F401 - sets OMP_WAIT_POLICY, which torch reads when it is imported

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator

import pytest
import torch
import transformers
from hypothesis import settings
from kedro.framework.project import configure_project
from transformers import PreTrainedModel

from seuf.moe.loading import LanguageModel
from tests.tiny import EIGHT, tiny_language_model, tiny_model

FIRST = ("workflow", "test_smoke_study", "test_hub_studies")

transformers.logging.set_verbosity_error()
configure_project("seuf")  # the settings and the package that a command would find
settings.register_profile("seuf", max_examples=30, deadline=None, derandomize=True)
settings.load_profile("seuf")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones: the other process then has something to do until they end.

    While one runs the smoke study, which most of the others wait for, another is at the hub's.
    """
    items.sort(key=lambda item: [part not in item.nodeid for part in FIRST])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, whatever a test did: tiny models gain nothing from a second."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(params=EIGHT)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One tiny random model of each of eight architectures."""
    return tiny_model(request.param)


@pytest.fixture
def language_model() -> LanguageModel:
    """A tiny random qwen2_moe with a tokenizer."""
    return tiny_language_model()
