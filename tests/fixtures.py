"""The fixtures of all tests, and what is set before the first; it imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
import transformers
import xdist.remote  # noqa: F401 - the other such file
from hypothesis import HealthCheck, settings
from kedro.framework.project import configure_project
from transformers import PreTrainedModel

from seuf.moe.loading import LanguageModel
from tests.tiny import EIGHT, tiny_language_model, tiny_model

transformers.logging.set_verbosity_error()
configure_project("seuf")  # the settings and the package that a command would find
settings.register_profile(
    "seuf",
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],  # of the machine, it would be
)
settings.load_profile("seuf")
# Kedro's settings ask whose frames call them, and Python looks through all modules for a frame
# whose file is no module's, as in a process of pytest-xdist: .1 to .4 s a time
inspect.modulesbyfile["<string>"] = "__main__"


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
