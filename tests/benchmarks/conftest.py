"""A tiny model that knows a few sentences by heart."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from seuf.benchmarks.records import Question
from seuf.moe.loading import LanguageModel
from seuf.moe.settings import PretrainingSettings
from seuf.moe.training import pretrain
from tests.tiny import bits

KNOWN = {
    "What is the colour of grass?": "a deep green",
    "What is the colour of coal?": "black",
    "Who lives in a hive?": "a colony of bees",
    "Who lives in a den?": "foxes",
}
WRONG = ["white as snow", "a blue whale", "red"]


def prompt(question: str) -> str:
    """Return the question as the model has learned it."""
    return f"Question: {question} Answer:"


LEARNING = PretrainingSettings(
    vocabulary=300,
    hidden_size=48,
    layers=2,
    heads=2,
    experts=4,
    expert_width=32,
    shared_expert_width=16,
    steps=300,
    batch_size=4,
    length=64,
    warmup=10,
)


@pytest.fixture(scope="session")
def _learned() -> LanguageModel:
    texts = [(f"{prompt(question)} {answer}", question) for question, answer in KNOWN.items()]
    return pretrain(texts, LEARNING, seed=0)


@pytest.fixture
def knowing_model(_learned: LanguageModel) -> LanguageModel:
    """A qwen2_moe of 2 layers and 4 experts that answers each question of `KNOWN`."""
    before = bits(_learned.model)
    yield _learned
    assert all((p == before[name]).all() for name, p in _learned.model.named_parameters())


@pytest.fixture
def model(knowing_model: LanguageModel) -> PreTrainedModel:
    """Stand in for the fixture of all architectures: one is enough here."""
    return knowing_model.model


@pytest.fixture
def questions() -> list[Question]:
    """What the model knows, beside wrong choices of other lengths; two of each subject."""
    return [
        Question(
            question=prompt(question),
            choices=[*WRONG[:position], answer, *WRONG[position:]],
            answer=position,
            topic=question,
            subject="forget" if "colour" in question else "retain",
            part="test",
            reference=answer,
        )
        for position, (question, answer) in enumerate(KNOWN.items())
    ]
