"""What a model says."""

from __future__ import annotations

import pytest

from seuf.benchmarks.answers import greedy_answers
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from tests.benchmarks.conftest import KNOWN, prompt
from tests.tiny import little_memory

SETTINGS = ScoringSettings(generate=True, max_new_tokens=24)


def test_a_model_says_what_it_knows_and_stops_at_its_end_token(knowing_model):
    answers = greedy_answers(knowing_model, [prompt(q) for q in KNOWN], SETTINGS)

    assert [answer.strip() for answer in answers] == list(KNOWN.values())


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

    assert answer.strip() == knowing_model.tokenizer.decode(first).strip() != "a deep green"


def test_a_long_prompt_loses_its_beginning(knowing_model):
    question = next(iter(KNOWN))
    length = len(knowing_model.tokenizer(prompt(question))["input_ids"])
    settings = SETTINGS.model_copy(update={"max_length": length})

    (answer,) = greedy_answers(knowing_model, [prompt("Who? ") + prompt(question)], settings)

    assert answer.strip() == KNOWN[question]


def test_a_probe_may_ask_for_fewer_tokens_than_the_study(knowing_model):
    (answer,) = greedy_answers(knowing_model, [prompt(next(iter(KNOWN)))], SETTINGS, 1)

    assert len(knowing_model.tokenizer(answer)["input_ids"]) == 1


def test_prompts_that_do_not_fit_are_answered_in_parts(knowing_model):
    prompts = [prompt(question) for question in KNOWN]

    with little_memory(knowing_model.model, rows=1) as failed:
        answers = greedy_answers(knowing_model, prompts, SETTINGS)

    assert failed == [4, 2]
    assert [answer.strip() for answer in answers] == list(KNOWN.values())


def test_a_prompt_that_does_not_fit_is_too_long(knowing_model):
    message = r"lower evaluation.max_length or evaluation.max_new_tokens"
    with little_memory(knowing_model.model, rows=0), pytest.raises(InputError, match=message):
        greedy_answers(knowing_model, ["Who?"], SETTINGS)
