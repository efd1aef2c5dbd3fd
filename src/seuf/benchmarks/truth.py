"""Likelihoods of true and wrong answers: the part of TOFU's scores that needs a model.

The numbers are defined in `truth_ratios`; the questions are those of kind `truth`, see `tofu`.

1. An answer ends with the end token, whose likelihood counts, as in locuslab/tofu 8c49eee,
   data_module.py. A tokenizer that has none leaves it out.
2. The prompt is the benchmark's own, not a chat model's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seuf.benchmarks.answers import mean_with_error
from seuf.benchmarks.choices import ChoicePasses, encode_choices, group_by_input
from seuf.benchmarks.records import Question
from seuf.benchmarks.truth_ratios import (
    PLAIN_SETS,
    UTILITY_SETS,
    indifference,
    share_of_true,
    truth_ratio_arithmetic,
    truth_ratio_geometric,
    truthfulness,
)

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel

RATIOS: dict[str, Callable[[float, Sequence[float]], float]] = {
    "truth_ratio_geometric": truth_ratio_geometric,
    "truth_ratio_arithmetic": truth_ratio_arithmetic,
}


class Likelihoods(NamedTuple):
    """Mean log-likelihoods per token of a question's answers.

    Attributes:
        answer: Of the learned answer.
        true: Of the true answer that is worded like the wrong ones.
        wrong: Of each wrong answer.
    """

    answer: float
    true: float
    wrong: list[float]


def score_truth(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, Any]]:
    """Return probabilities and truth ratios by set: forget, retain, real authors, world facts.

    Returns:
        For each set `questions` (their number), `probability` (of the answer; without a paraphrase,
        its share among all choices) and the two truth ratios, each with `value` and
        `standard_error`. The truth ratios also have `ratios`, in the order of the questions; their
        `value` is the mean of `indifference` for forget, else of `truthfulness`.
    """
    means = mean_log_likelihoods(subject_model, questions, settings.batch_size)
    sets: dict[str, list[Likelihoods]] = {}
    for question, of_choices in zip(questions, means, strict=True):
        name = set_of(question)
        first_wrong = 1 if name in PLAIN_SETS else 2  # else a paraphrase follows the answer
        true, wrong = of_choices[first_wrong - 1], of_choices[first_wrong:]
        sets.setdefault(name, []).append(Likelihoods(of_choices[0], true, wrong))
    return {name: _scores(name, likelihoods) for name, likelihoods in sorted(sets.items())}


def set_of(question: Question) -> str:
    """Return the set of TOFU that a question belongs to."""
    return question.topic if question.topic in PLAIN_SETS else question.subject


def mean_log_likelihoods(
    subject_model: LanguageModel, questions: Sequence[Question], batch_size: int
) -> list[list[float]]:
    """Return the mean log-likelihood per token of every choice of every question, in nats."""
    tokenizer = subject_model.tokenizer
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    choices = [
        [
            choice
            if choice.continuation[-1:] == end
            else choice._replace(continuation=choice.continuation + end)
            for choice in encode_choices(tokenizer, question)
        ]
        for question in questions
    ]
    by_input = group_by_input(choice for of_question in choices for choice in of_question)
    sums = ChoicePasses(by_input, batch_size).log_likelihoods(subject_model.model)
    return [
        [sums[choice] / len(choice.continuation) for choice in of_question]
        for of_question in choices
    ]


def _scores(name: str, likelihoods: Sequence[Likelihoods]) -> dict[str, Any]:
    probabilities = [
        share_of_true(of.answer, of.wrong) if name in PLAIN_SETS else math.exp(of.answer)
        for of in likelihoods
    ]
    scores = {"questions": len(likelihoods), "probability": mean_with_error(probabilities)}
    score = truthfulness if name in UTILITY_SETS else indifference
    for key, ratio in RATIOS.items():
        ratios = [ratio(of.true, of.wrong) for of in likelihoods]
        scores[key] = {**mean_with_error([score(one) for one in ratios]), "ratios": ratios}
    return scores
