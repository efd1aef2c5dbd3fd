"""Tokenizers with habits of their own: looks and report read the same tokens, or refuse."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from seuf.benchmarks.choices import ChoiceScorer, check_questions, encode_choices
from seuf.benchmarks.harness import harness_model, score_questions
from seuf.benchmarks.produced import ProducedScorer, score_produced
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.batches import open_ids
from seuf.moe.knowledge import Asked, share_known
from seuf.moe.loading import LanguageModel

SETTINGS = ScoringSettings(max_new_tokens=24)


def with_template(learned: LanguageModel, template: str) -> LanguageModel:
    """Return the model with a tokenizer that puts its end token where the template says."""
    tokenizer: Any = deepcopy(learned.tokenizer)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template.format(end), special_tokens=[(end, tokenizer.eos_token_id)]
    )
    if not template.startswith("$"):
        tokenizer.bos_token = end
    return replace(learned, tokenizer=tokenizer)


@pytest.fixture
def closing(knowing_model) -> LanguageModel:
    """The model that knows all answers; its tokenizer closes every text."""
    return with_template(knowing_model, "$A {}")


def spanning() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for `Answer: C`."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    learned.train_from_iterator(["Who? Answer: C", "Where? Answer: C"] * 50, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learned, eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def test_a_text_that_goes_on_is_not_closed_and_begins_once(knowing_model):
    """`a` has a token of its own, the end token is number 0."""
    plain, closed = knowing_model, with_template(knowing_model, "$A {}")
    begun, end = with_template(knowing_model, "{} $A"), knowing_model.tokenizer.eos_token
    [[a]] = plain.tokenizer(["a"])["input_ids"]

    assert closed.tokenizer("a")["input_ids"] == [a, 0]
    assert begun.tokenizer(f"{end}a")["input_ids"] == [0, 0, a]
    assert open_ids(plain.tokenizer, ["a", f"a{end}"]) == [[a], [a, 0]]
    assert open_ids(closed.tokenizer, ["a", f"a{end}", ""]) == [[a], [a, 0], []]
    assert open_ids(begun.tokenizer, ["a", f"{end}a"]) == [[0, a], [0, a]]


def test_a_tokenizer_that_closes_every_text_leaves_all_answers_right(closing, questions):
    """It was .25: each choice lost its first token, and the model was asked after an end."""
    looks = ChoiceScorer(closing.tokenizer, questions, "acc", 8).right(closing.model)
    scores = score_questions(closing, questions, SETTINGS)
    produced = ProducedScorer(closing.tokenizer, questions, 8).right(closing.model)
    generated = score_produced(closing, questions, SETTINGS, {})

    assert looks == [1.0] * 4
    assert {name: of["accuracy"] for name, of in scores.items()} == {"forget": 1, "retain": 1}
    assert produced == [1.0] * 4
    assert {name: of["value"] for name, of in generated.items()} == {"forget": 1, "retain": 1}


def test_a_model_whose_tokenizer_closes_every_text_is_not_taken_for_ignorant(closing, questions):
    asked = [Asked(q.question, q.reference, q.topic) for q in questions]

    assert set(share_known(closing, asked).values()) == {1.0}


@pytest.mark.parametrize("question", ["<|end|>Question: Who? Answer:", "Who?  ", "Who?\n"])
@pytest.mark.parametrize("template", ["$A", "{} $A", "$A {}", "{} $A {}"])
def test_looks_and_report_read_the_same_tokens(knowing_model, template, question):
    """A beginning-of-text mark in the question, and spaces at its end."""
    text = question.replace("<|end|>", str(knowing_model.tokenizer.eos_token))
    asked = Question(text, ["Oslo", "a hut"], 0, "", "forget", "test")
    subject = with_template(knowing_model, template.replace("{} $A {}", "{0} $A {0}"))
    harness = harness_model(subject, SETTINGS)

    encoded = [harness._encode_pair(text, f" {choice}") for choice in asked.choices]

    looked_at = encode_choices(subject.tokenizer, asked)
    assert encoded == [(list(c.context), list(c.continuation)) for c in looked_at]
    assert [c.context[:2].count(0) for c in looked_at] == [
        int("{} $A" in template or "<|end|>" in question)
    ] * 2


def test_a_choice_without_tokens_of_its_own_is_refused_by_name(knowing_model):
    """It would have a likelihood of 1, and win every look."""
    subject = replace(knowing_model, tokenizer=spanning())
    asked = Question("Who? Answer:", ["D", "C"], 0, "", "forget", "test")
    named = r"no tokens of its own for ' C' after 'Who\? Answer:'"

    for refused in (
        lambda: ChoiceScorer(subject.tokenizer, [asked], "acc", 8),
        lambda: score_questions(subject, [asked], SETTINGS),
        lambda: ProducedScorer(subject.tokenizer, [asked._replace(reference="C")], 8),
        lambda: check_questions(subject.tokenizer, [asked], SETTINGS),
    ):
        with pytest.raises(InputError, match=named):
            refused()


def test_a_question_without_tokens_is_refused(knowing_model):
    with pytest.raises(InputError, match="no tokens of its own for '  a' after ''"):
        encode_choices(knowing_model.tokenizer, Question(" ", ["a", "b"], 0, "", "forget", "test"))
