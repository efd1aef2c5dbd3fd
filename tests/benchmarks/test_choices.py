"""The fast scorer, against numbers worked out by hand."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import seuf.benchmarks.choices as choices_module
from seuf.benchmarks.choices import (
    Choice,
    ChoicePasses,
    ChoiceScorer,
    chance,
    group_by_input,
    packed_questions,
    preferred_choice,
    seen_alone,
)
from seuf.benchmarks.records import Question
from seuf.inputs import InputError
from seuf.moe.architectures import decoder
from tests.tiny import little_memory


def asked(choices: list[str], subject: str = "forget") -> Question:
    """Return a question whose first choice is true."""
    return Question("Question: Who?", choices, 0, "", subject, "test")


def likelihoods(scorer: ChoiceScorer, model: nn.Module) -> dict[Choice, float]:
    """Return what the scorer compares."""
    return scorer.passes.log_likelihoods(model)


def test_acc_prefers_the_likeliest_choice():
    assert preferred_choice([-3.0, -2.0], asked(["a", "bcdefg"]), "acc") == 1


def test_acc_norm_prefers_the_likeliest_choice_per_character():
    """-2 over 1 character is -2; -3 over 6 characters is -0.5."""
    question = asked(["a", "bcdefg"])

    assert preferred_choice([-2.0, -3.0], question, "acc") == 0
    assert preferred_choice([-2.0, -3.0], question, "acc_norm") == 1


def test_characters_are_counted_not_bytes():
    """-6 over 3 characters is -2, over the 6 bytes of 'äöü' it would be -1; -3 over 2 is -1.5."""
    assert preferred_choice([-6.0, -3.0], asked(["äöü", "ab"]), "acc_norm") == 1


def test_of_equals_the_first_is_preferred():
    assert preferred_choice([-2.0, -2.0], asked(["a", "b"]), "acc") == 0


def test_chance_is_the_mean_of_one_over_the_choices_of_the_subject():
    """One question of 4 choices and one of 2: (1/4 + 1/2) / 2 = 0.375."""
    questions = [asked(list("abcd")), asked(list("ab")), asked(list("abcde"), "retain")]

    assert chance(questions) == 0.375
    assert chance(questions, "retain") == 0.2


def test_a_model_that_knows_the_answers_is_always_right(knowing_model, questions):
    scorer = ChoiceScorer(knowing_model.tokenizer, questions, "acc", batch_size=3)

    assert scorer.answers(knowing_model.model) == [0, 1, 2, 3]
    assert scorer.right(knowing_model.model) == [1.0] * 4


def test_a_question_whose_right_choice_is_not_preferred_counts_nothing(knowing_model, questions):
    """The last question now calls a wrong choice right."""
    misled = [*questions[:3], questions[3]._replace(answer=0)]
    scorer = ChoiceScorer(knowing_model.tokenizer, misled, "acc", batch_size=64)

    assert scorer.right(knowing_model.model) == [1.0, 1.0, 1.0, 0.0]


def test_a_choice_is_as_likely_as_its_tokens_together(language_model):
    """The sum of the log-probabilities of its tokens, each read off the logits by hand."""
    question = asked(["Oslo lives", "Rome"])
    scorer = ChoiceScorer(language_model.tokenizer, [question], "acc", batch_size=2)
    choice = scorer.choices[0][0]
    ids = torch.tensor([[*choice.context, *choice.continuation]])

    with torch.no_grad():
        probabilities = language_model.model(ids).logits[0].float().log_softmax(-1)
    first = len(choice.context) - 1
    by_hand = sum(
        probabilities[first + place, token].item()
        for place, token in enumerate(choice.continuation)
    )

    assert len(choice.continuation) > 1
    assert likelihoods(scorer, language_model.model)[choice] == pytest.approx(by_hand, abs=1e-5)


def test_a_token_sees_its_question_and_its_own_choice():
    """A question of two tokens, with choices of one and of two, then one of one token; padding.

    Choices stand at the place after their question, 0 1 2 2 3, and the next question at 0.
    """
    questions, parts = torch.tensor([[[1, 1, 1, 1, 1, 2, 0]], [[0, 0, 1, 2, 2, 0, 0]]])

    asked_of_model = seen_alone(questions, parts)

    mask = asked_of_model["attention_mask"]
    assert mask.shape == (1, 1, 7, 7)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
    assert asked_of_model["position_ids"].tolist() == [[0, 1, 2, 2, 3, 0, 0]]


def test_a_question_is_read_once_and_what_two_choices_share_too(language_model):
    """Of question 1 2 the choices 3 4 5, 3 4 6 and 7 8 are read to their last tokens: 1 2 3 4 7.

    That of question 9 has one token, so nothing is read behind it.
    """
    choices = [Choice((1, 2), ids) for ids in ((3, 4, 5), (3, 4, 6), (7, 8))]
    choices.append(Choice((9,), (3,)))
    read = []
    decoder(language_model.model).register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )

    passes = ChoicePasses(group_by_input(choices), batch_size=8, shared=True)
    shared = passes.log_likelihoods(language_model.model)

    assert read == [[[1, 2, 3, 4, 7, 9]]]
    alone = ChoicePasses(group_by_input(choices), batch_size=8, shared=False)
    assert shared == pytest.approx(alone.log_likelihoods(language_model.model), abs=1e-5)


def test_packed_questions_go_on_with_fewer_rows_where_memory_runs_out(language_model, monkeypatch):
    """Four questions of 30 to 33 tokens, of which no two fit into a row: rows of 32 to 35 tokens in
    a batch of width 35. Parts of one row are narrower than the batch that they are taken from.
    """
    monkeypatch.setattr(choices_module, "PACKED", 36)
    choices = [
        Choice(tuple(range(1, 1 + length)), ids)
        for length in (30, 31, 32, 33)
        for ids in ((3, 4), (5, 6))
    ]
    expected = ChoicePasses(group_by_input(choices), 8, shared=True)
    passes = ChoicePasses(group_by_input(choices), 8, shared=True)

    with little_memory(language_model.model, rows=1) as failed:
        scored = passes.log_likelihoods(language_model.model)

    assert failed == [4, 2]
    assert scored == pytest.approx(expected.log_likelihoods(language_model.model), abs=1e-5)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=300),
            st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=200), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_choice_stands_in_a_row_behind_its_question(asked):
    """Read back from the rows: the tokens that a choice's last column sees are its input."""
    choices = [Choice(tuple(q), tuple(c)) for q, of in asked for c in of]
    rows = packed_questions(group_by_input(choices))
    longest = max(len(row) for row in rows.tokens)

    found = []
    for tokens, places, scored in zip(rows.tokens, rows.places, rows.scored, strict=True):
        for choice, last, first in scored:
            question, _ = places[last]
            own = {places[first][1] if first < len(places) else None}
            inputs = tuple(
                token
                for token, (of, part) in zip(tokens, places, strict=True)
                if of == question and (part == 0 or (len(choice.continuation) > 1 and part in own))
            )
            assert inputs == choice.input_ids
            found.append(choice)

    assert sorted(found) == sorted(set(choices))
    assert longest <= max(512, max(len(q) + sum(map(len, of)) for q, of in asked))


def test_choices_of_one_token_are_read_in_one_row(language_model):
    scorer = ChoiceScorer(language_model.tokenizer, [asked(["a", "b", "c"])], "acc", batch_size=8)
    spaced = [choice.continuation for choice in scorer.choices[0]]
    inputs = {choice.input_ids for choice in scorer.choices[0]}

    # " a" is two tokens here, the space and the letter: the space is read by all three
    assert {len(tokens) for tokens in spaced} == {2}
    assert len(inputs) == len(scorer.by_input) == 1


def test_a_question_that_is_too_long_for_the_model_is_refused(language_model):
    language_model.model.config.max_position_embeddings = 8
    scorer = ChoiceScorer(language_model.tokenizer, [asked(["a", "b"])], "acc", batch_size=2)

    with pytest.raises(InputError, match=r"8 positions, .* with a choice must have 8 or less"):
        scorer.answers(language_model.model)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_batch_size_changes_nothing(knowing_model, questions, batch_size):
    scorer = ChoiceScorer(knowing_model.tokenizer, questions, "acc_norm", batch_size)

    assert scorer.answers(knowing_model.model) == [0, 1, 2, 3]


def test_rows_that_do_not_fit_are_scored_in_parts_and_the_size_is_remembered(
    knowing_model, questions
):
    """Rows come 16 at once, then 8, 4 and 2; the second time 2 at once."""
    scorer = ChoiceScorer(knowing_model.tokenizer, questions, "acc", batch_size=16)
    assert len(scorer.by_input) == 16
    before = likelihoods(scorer, knowing_model.model)

    with little_memory(knowing_model.model, rows=3) as failed:
        first, second = (likelihoods(scorer, knowing_model.model) for _ in range(2))

    assert failed == [16, 8, 4]
    assert first == second
    assert first == pytest.approx(before, abs=1e-4)


@pytest.mark.gpu
def test_a_gpu_is_waited_for_once_and_gives_what_a_cpu_gives(language_model):
    """Of 24 questions in batches of 2 sequences and more; the first time what it needs is moved."""
    questions = [asked([f"{word} {number}" for word in "abc"]) for number in range(24)]
    scorer = ChoiceScorer(language_model.tokenizer, questions, "acc", 2, max_length=8)
    expected = likelihoods(scorer, language_model.model.bfloat16())
    model = language_model.model.to("cuda")
    likelihoods(scorer, model)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        found = likelihoods(scorer, model)
        torch.cuda.set_sync_debug_mode("default")

    assert sum("called a synchronizing" in str(one.message) for one in told) == 1
    assert found == pytest.approx(expected, rel=0.05)
