"""Likelihoods of true and wrong answers, against full logits and numbers worked out by hand."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import exp, log
from statistics import mean

import pytest
import torch

from seuf.benchmarks import truth
from seuf.benchmarks.choices import encode_choices
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.benchmarks.truth import mean_log_likelihoods, score_truth

AUTHORS = ["Oslo lives", "a deep green sea", "Rome", "black as coal"]
GENERAL = ["Paris", "Rome", "Oslo lives"]


def asked(choices: list[str], topic: str = "author 3", subject: str = "forget") -> Question:
    """Return a question of kind `truth`."""
    return Question("Question: Who?", choices, 0, topic, subject, "test", kind="truth")


def by_hand(model, question: str, answer: str) -> float:
    """Return the mean log-likelihood of an answer's tokens and the end, from all logits."""
    context = model.tokenizer(question)["input_ids"]
    ids = model.tokenizer(f"{question} {answer}")["input_ids"] + [model.tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return mean(logits[place - 1, ids[place]].item() for place in range(len(context), len(ids)))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_answer_is_as_likely_as_full_logits_say_a_token(language_model, batch_size):
    questions = [asked(AUTHORS), asked(GENERAL, "real authors", "retain")]

    found = mean_log_likelihoods(language_model, questions, batch_size)

    expected = [[by_hand(language_model, q.question, c) for c in q.choices] for q in questions]
    for values, wanted in zip(found, expected, strict=True):
        assert values == pytest.approx(wanted, abs=1e-5)


def test_the_end_of_an_answer_counts_where_there_is_one(language_model):
    """With the end the sum over all tokens is that without it, and the end's own likelihood."""
    endless = replace(language_model, tokenizer=deepcopy(language_model.tokenizer))
    endless.tokenizer.eos_token = None
    tokens = len(encode_choices(language_model.tokenizer, asked(AUTHORS))[0].continuation)

    with_end, without = (
        mean_log_likelihoods(model, [asked(AUTHORS)], 8)[0][0]
        for model in (language_model, endless)
    )

    own = ended(language_model, AUTHORS[0])
    assert (tokens + 1) * with_end == pytest.approx(tokens * without + own, abs=1e-4)


def ended(model, answer: str) -> float:
    """Return the log-likelihood of the end after an answer."""
    ids = model.tokenizer(f"Question: Who? {answer}")["input_ids"]
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    return logits[model.tokenizer.eos_token_id].item()


def scored(monkeypatch, *of: tuple[Question, list[float]]):
    """Return the scores of questions whose choices have these probabilities a token."""
    values = [[log(value) for value in probabilities] for _, probabilities in of]
    monkeypatch.setattr(truth, "mean_log_likelihoods", lambda *_: values)
    return score_truth(None, [question for question, _ in of], ScoringSettings())


def test_an_authors_answer_counts_and_its_paraphrase_is_compared(monkeypatch):
    """Wrong ones 1/8 and 1/32, geometric 1/16, mean 5/64; the paraphrase 1/4, the answer 1/2."""
    scores = scored(monkeypatch, (asked(AUTHORS), [1 / 2, 1 / 4, 1 / 8, 1 / 32]))["forget"]

    assert scores["questions"] == 1
    assert scores["probability"]["value"] == pytest.approx(1 / 2)
    assert scores["truth_ratio_geometric"]["ratios"] == [pytest.approx(1 / 4)]
    assert scores["truth_ratio_arithmetic"]["ratios"] == [pytest.approx(5 / 16)]


def test_without_paraphrase_the_answer_is_compared_and_its_share_counts(monkeypatch):
    """The answer 1/2, wrong ones 1/8 and 1/32: 16/21 of all; geometric (1/16) / (1/2) = 1/8."""
    question = asked(GENERAL, "world facts", "retain")

    scores = scored(monkeypatch, (question, [1 / 2, 1 / 8, 1 / 32]))["world facts"]

    assert scores["probability"]["value"] == pytest.approx(16 / 21)
    assert scores["truth_ratio_geometric"]["ratios"] == [pytest.approx(1 / 8)]
    assert scores["truth_ratio_geometric"]["value"] == pytest.approx(7 / 8)


def test_the_four_sets_are_told_apart(monkeypatch):
    """Ratio 2 in each: 1/2 where it should be gone, where it should stay max(0, 1 - 2) = 0."""
    authors, general = [0.1, 0.1, 0.2, 0.2], [0.1, 0.2, 0.2]

    scores = scored(
        monkeypatch,
        (asked(AUTHORS), authors),
        (asked(AUTHORS, subject="retain"), authors),
        (asked(GENERAL, "real authors", "retain"), general),
        (asked(GENERAL, "world facts", "retain"), general),
    )

    assert list(scores) == ["forget", "real authors", "retain", "world facts"]
    values = {name: of["truth_ratio_geometric"]["value"] for name, of in scores.items()}
    assert values.pop("forget") == pytest.approx(0.5)
    assert all(value == 0 for value in values.values())


def test_the_standard_error_is_of_the_mean(monkeypatch):
    """Probabilities 0.2 and 0.4: deviation 0.1 * sqrt(2), over sqrt(2) is 0.1."""
    scores = scored(
        monkeypatch,
        (asked(AUTHORS), [0.2, 0.1, 0.1, 0.1]),
        (asked(AUTHORS), [0.4, 0.1, 0.1, 0.1]),
    )

    assert scores["forget"]["probability"]["value"] == pytest.approx(0.3)
    assert scores["forget"]["probability"]["standard_error"] == pytest.approx(0.1)


def test_a_model_that_knows_an_answer_finds_it_true(knowing_model, questions):
    """What it has learned to the end is nearly certain, and ten times as likely as the rest."""
    known = [
        q._replace(choices=[q.reference, *(c for c in q.choices if c != q.reference)], kind="truth")
        for q in questions
    ]
    plain = [q._replace(topic="world facts", subject="retain") for q in known]

    scores = score_truth(knowing_model, plain, ScoringSettings())["world facts"]

    assert scores["questions"] == len(questions)
    assert scores["probability"]["value"] > 0.8
    assert max(scores["truth_ratio_geometric"]["ratios"]) < 0.1


def test_the_order_of_questions_is_that_of_ratios(language_model):
    first, second = asked(AUTHORS), asked(AUTHORS[::-1])
    settings = ScoringSettings(batch_size=2)

    ratios = [
        score_truth(language_model, order, settings)["forget"]["truth_ratio_geometric"]["ratios"]
        for order in ([first, second], [second, first])
    ]

    assert ratios[0] == pytest.approx(ratios[1][::-1])
    assert ratios[0][0] != pytest.approx(ratios[0][1])
    values = [by_hand(language_model, first.question, answer) for answer in AUTHORS]
    assert ratios[0][0] == pytest.approx(exp(mean(values[2:]) - values[1]), rel=1e-4)
