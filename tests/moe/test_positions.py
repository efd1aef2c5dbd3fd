"""Samples that are longer than the model was made for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from seuf.benchmarks.answers import greedy_answers
from seuf.benchmarks.choices import ChoiceScorer
from seuf.benchmarks.harness import score_questions
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.architectures import check_positions, positions_of
from seuf.pipelines.routing_capture.nodes import capture_routing
from seuf.unlearning.algorithm import samples_of
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.settings import UnlearningSettings

LONG = "Ada lives in Oslo. " * 20
ASKED = [
    Question(LONG, ["yes", "no"], 0, "Ada", subject, "test") for subject in ("forget", "retain")
]


def model(**config: object) -> SimpleNamespace:
    """Return what stands for a model: only its configuration is asked."""
    return SimpleNamespace(config=SimpleNamespace(**config))


def test_a_sample_may_fill_the_positions_but_not_pass_them():
    check_positions(model(max_position_embeddings=4), [[1], [1, 2, 3, 4]], "set it to {} or less")

    with pytest.raises(InputError) as refused:
        check_positions(model(max_position_embeddings=4), [[1] * 5], "set it to {} or less")
    assert str(refused.value) == (
        "The model has 4 positions, and a sample has 5 tokens: set it to 4 or less."
    )


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default"}}, 4096),
        # stretched: 4 times the 4096 it was trained on
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {"factor": 4.0, "original_max_position_embeddings": 4096},
            },
            16384,
        ),
    ],
)
def test_the_configuration_tells_the_positions(config, positions):
    assert positions_of(model(**config)) == positions


def test_samples_to_unlearn_are_held_against_the_model(language_model):
    """The tiny model has 64 positions, and each word is a token or more."""
    texts = ["Ada lives in Oslo. " * 20]
    settings = UnlearningSettings(max_length=65)

    with pytest.raises(InputError, match=r"has 64 positions.* set unlearning.max_length to 64"):
        samples_of(language_model, texts, settings)
    samples_of(language_model, texts, settings.model_copy(update={"max_length": 64}))


def test_questions_are_held_against_the_model_that_answers_them(language_model):
    settings = ScoringSettings(max_length=512)
    scorer = ChoiceScorer(language_model.tokenizer, ASKED, settings.metric, 2)

    with pytest.raises(InputError, match="a question with a choice must have 64 or less"):
        scorer.answers(language_model.model)
    with pytest.raises(InputError, match=r"set evaluation.max_length to 64 or less"):
        score_questions(language_model, ASKED, settings)


def test_a_prompt_and_its_answer_are_held_against_the_model(language_model):
    """60 tokens of a prompt leave 4 to say."""
    settings = ScoringSettings(max_length=60)

    with pytest.raises(InputError, match=r"65 tokens: a prompt and its answer must have 64"):
        greedy_answers(language_model, [LONG], settings, max_new_tokens=5)
    greedy_answers(language_model, [LONG], settings, max_new_tokens=4)


def test_texts_whose_routing_is_recorded_are_held_against_the_model(language_model):
    texts = [{"text": LONG}]

    with pytest.raises(InputError, match=r"set routing_capture.max_length to 64 or less"):
        capture_routing(language_model, texts, texts, RoutingSettings(max_length=65), 0)
