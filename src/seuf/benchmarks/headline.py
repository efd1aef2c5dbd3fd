"""One number for each subject: a study's forget efficacy (`forget`) and utility (`retain`).

Where a subject has questions with choices it is the accuracy on these, else the mean over the free
answers whose kind is in the headline (see `AnswerKind`). `HeadlineScorer` gives the two numbers
while a method trains, `headline` takes them from the scores that are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, Any

from seuf.benchmarks.answers import free_answers, measure_answers
from seuf.benchmarks.choices import ChoiceScorer
from seuf.benchmarks.records import ANSWER_KINDS, Question

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel


class HeadlineScorer:
    """Scores a model on the same questions again and again.

    Args:
        base: Its tokenizer is used; the model is given each time.
        questions: What to ask.
        settings: How answers are scored.
    """

    def __init__(
        self, base: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
    ) -> None:
        self.base, self.settings = base, settings
        multiple_choice = [question for question in questions if question.is_multiple_choice()]
        subjects = {question.subject for question in multiple_choice}
        self.choices = ChoiceScorer(
            base.tokenizer, multiple_choice, settings.metric, settings.batch_size
        )
        self.free: dict[tuple[str, str], list[Question]] = {}
        for question in questions:
            counts = ANSWER_KINDS[question.kind].headline and question.subject not in subjects
            if counts and question.is_free_answer(with_choices=False):
                self.free.setdefault((question.subject, question.kind), []).append(question)

    def score(self, model: Any) -> dict[str, float]:
        """Return the number of each subject."""
        values: dict[str, list[float]] = {}
        subject_model = replace(self.base, model=model)
        for (subject, name), asked in self.free.items():
            kind = ANSWER_KINDS[name]
            answers = free_answers(subject_model, asked, kind, self.settings)
            measured = measure_answers(subject_model, asked, answers, kind, self.settings)
            values.setdefault(subject, []).extend(measured)
        return self.choices.accuracy(model) | {name: mean(of) for name, of in values.items()}


def headline(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the number of each subject in a study's table, from all scores of a model.

    Args:
        scores: `questions` by subject, and `generation` by subject and kind; one may be missing.

    Returns:
        For each subject `measure`, `value` and `standard_error`.
    """
    numbers = {
        subject: {
            "measure": "accuracy",
            "value": scored["accuracy"],
            "standard_error": scored["standard_error"],
        }
        for subject, scored in scores.get("questions", {}).items()
    }
    for subject, by_kind in scores.get("generation", {}).items():
        counted = [scored for kind, scored in by_kind.items() if ANSWER_KINDS[kind].headline]
        if subject not in numbers and counted:
            numbers[subject] = _mean_of_kinds(counted)
    return numbers


def _mean_of_kinds(kinds: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean over all answers of several kinds, and its standard error."""
    total = sum(scored["questions"] for scored in kinds)
    value = sum(scored["questions"] * scored["value"] for scored in kinds) / total
    # of a mean over strata of fixed sizes
    variance = sum((s["questions"] / total * s["standard_error"]) ** 2 for s in kinds)
    return {
        "measure": kinds[0]["measure"],
        "value": value,
        "standard_error": variance**0.5,
    }
