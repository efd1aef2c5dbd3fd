"""What a model says, and how much of the reference is in it."""

from __future__ import annotations

import pytest

from seuf.benchmarks.generation import greedy_answers, rouge_l_recall, score_answers
from seuf.benchmarks.settings import ScoringSettings
from seuf.errors import InputError
from tests.benchmarks.conftest import KNOWN, prompt

SETTINGS = ScoringSettings(generate=True, max_new_tokens=24)


def test_recall_is_the_share_of_the_reference_in_order():
    """Of 'the cat sat down' the answer has 'the', 'cat', 'down' in this order: 3/4. What it says
    beyond that costs nothing.
    """
    answer = "the black cat is down, and the dog too"

    assert rouge_l_recall("the cat sat down", answer) == 0.75


def test_words_are_compared_by_their_stems():
    """'apples' and 'falling' have the stems of 'apple' and 'falls': 2 of 3."""
    assert rouge_l_recall("red apple falls", "apples falling") == pytest.approx(2 / 3)


def test_an_empty_answer_recalls_nothing():
    assert rouge_l_recall("red apple", "") == 0


def test_a_model_says_what_it_knows_and_stops_at_its_end_token(knowing_model):
    answers = greedy_answers(knowing_model, [prompt(q) for q in KNOWN], SETTINGS)

    assert answers == list(KNOWN.values())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_padding_on_the_left_changes_no_answer(knowing_model, batch_size):
    settings = SETTINGS.model_copy(update={"batch_size": batch_size})
    prompts = [prompt(question) for question in KNOWN] + ["Question:", prompt("Who lives?")]

    answers = greedy_answers(knowing_model, prompts, settings)

    assert answers == [greedy_answers(knowing_model, [p], settings)[0] for p in prompts]


def test_an_answer_has_no_more_tokens_than_allowed(knowing_model):
    first = knowing_model.tokenizer(" a deep green")["input_ids"][:3]
    settings = SETTINGS.model_copy(update={"max_new_tokens": 3})

    (answer,) = greedy_answers(knowing_model, [prompt("What is the colour of grass?")], settings)

    assert answer == knowing_model.tokenizer.decode(first).strip() != "a deep green"


def test_a_long_prompt_loses_its_beginning(knowing_model):
    question = next(iter(KNOWN))
    length = len(knowing_model.tokenizer(prompt(question))["input_ids"])
    settings = SETTINGS.model_copy(update={"max_length": length})

    (answer,) = greedy_answers(knowing_model, [prompt("Who? ") + prompt(question)], settings)

    assert answer == KNOWN[question]


def test_rouge_is_told_by_subject_with_its_standard_error(knowing_model, questions):
    """Forget: references as learned, 1 and 1, so the error is 0. Retain: 'a colony of bees' holds
    3 of the 6 words 'bees live in a colony of' in order ('a colony of'), 'foxes' all of 'foxes':
    the mean is 3/4, the standard error sqrt((1/4)^2 * 2 / 1 / 2) = 1/4.
    """
    other = questions[2]._replace(reference="bees live in a colony of")

    scores = score_answers(knowing_model, [*questions[:2], other, questions[3]], SETTINGS)

    assert scores["forget"] == {
        "rouge_l_recall": 1.0,
        "standard_error": 0.0,
        "answers": ["a deep green", "black"],
    }
    assert scores["retain"]["rouge_l_recall"] == pytest.approx(0.75)
    assert scores["retain"]["standard_error"] == pytest.approx(0.25)


def test_questions_without_a_reference_are_left_out(knowing_model, questions):
    silent = questions[1]._replace(reference="")

    scores = score_answers(knowing_model, [questions[0], silent], SETTINGS)

    assert list(scores) == ["forget"]
    assert scores["forget"]["answers"] == ["a deep green"]


def test_a_benchmark_without_references_is_refused(knowing_model, questions):
    silent = [question._replace(reference="") for question in questions]

    with pytest.raises(InputError, match="no question has a `reference`"):
        score_answers(knowing_model, silent, SETTINGS)
