"""How much of each topic a model knows, against the model's own generation."""

from __future__ import annotations

import pytest
import torch

from seuf.inputs import InputError
from seuf.moe.knowledge import Asked, share_known
from seuf.moe.loading import LanguageModel
from seuf.moe.settings import PretrainingSettings
from seuf.moe.training import pretrain

PLACES = {"Ada": "Oslo", "Bo": "Rome", "Cy": "Oslo", "Di": "Rome"}
TEXTS = [(f"Where is {name}? {place}.", "north") for name, place in PLACES.items()]


@pytest.fixture(scope="module")
def taught() -> LanguageModel:
    """A model that knows four sentences and ends after each."""
    settings = PretrainingSettings(
        vocabulary=300, hidden_size=32, layers=1, heads=2, experts=4, expert_width=16,
        shared_expert_width=8, steps=200, batch_size=4, length=32, learning_rate=1e-2, warmup=3,
    )  # fmt: skip
    return pretrain(TEXTS, settings, seed=0)


def generated(model: LanguageModel, question: str) -> str:
    """Return the greedy answer up to the end token."""
    ids = torch.tensor([model.tokenizer(question)["input_ids"]])
    answer = model.model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=0)
    return model.tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)


def test_an_answer_is_known_if_the_model_says_it_and_ends(taught):
    """Two of four in `north`; `Oslo` without its full stop is no whole answer, nor is `Oslo.!`."""
    said = {name: generated(taught, f"Where is {name}?") for name in PLACES}
    assert said == {name: f" {place}." for name, place in PLACES.items()}
    asked = [
        Asked("Where is Ada?", "Oslo.", "north"),
        Asked("Where is Bo?", "Rome.", "north"),
        Asked("Where is Cy?", "Rome.", "north"),
        Asked("Where is Di?", "Rome", "north"),
        Asked("Where is Ada?", "Oslo.!", "south"),
        Asked("Where is Di?", "Rome.", "east"),
    ]

    assert share_known(taught, asked) == {"north": 0.5, "south": 0.0, "east": 1.0}


def test_what_is_asked_of_nobody_is_refused(taught):
    with pytest.raises(InputError, match="must_know needs questions"):
        share_known(taught, [])
