"""One number a subject: what a study's forget efficacy and utility are.

Where a subject has questions with choices it is the accuracy on these, else the mean over the free
answers whose kind counts (see `AnswerKind.headline`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, Any

from seuf.benchmarks.answers import free_answers, measured
from seuf.benchmarks.choices import ChoiceScorer
from seuf.benchmarks.records import ANSWER_KINDS, Question

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel


class HeadlineScorer:
    """Asks a model the same questions again and again.

    Args:
        base: Its tokenizer is used; the model is given each time.
        questions: What to ask.
        settings: How answers are scored.
    """

    def __init__(
        self, base: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
    ) -> None:
        self.base, self.settings = base, settings
        chosen = [question for question in questions if question.is_multiple_choice()]
        decided = {question.subject for question in chosen}
        self.choices = ChoiceScorer(base.tokenizer, chosen, settings.metric, settings.batch_size)
        self.free: dict[tuple[str, str], list[Question]] = {}
        for question in questions:
            counts = ANSWER_KINDS[question.kind].headline and question.subject not in decided
            if counts and question.is_free_answer(with_choices=False):
                self.free.setdefault((question.subject, question.kind), []).append(question)

    def results(self, model: Any) -> dict[str, float]:
        """Return the subject's number for each subject."""
        values: dict[str, list[float]] = {}
        subject_model = replace(self.base, model=model)
        for (subject, name), asked in self.free.items():
            answers = free_answers(subject_model, asked, ANSWER_KINDS[name], self.settings)
            found = measured(subject_model, asked, answers, ANSWER_KINDS[name], self.settings)
            values.setdefault(subject, []).extend(found)
        return self.choices.accuracy(model) | {s: mean(found) for s, found in values.items()}


def headline(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what stands for each subject in a study's table, from all scores of a model.

    Args:
        scores: `questions` by subject, and `generation` by subject and kind; one may be missing.

    Returns:
        For each subject `measure`, `value` and `standard_error`.
    """
    chosen, answered = scores.get("questions", {}), scores.get("generation", {})
    found = {subject: _of_choices(scored) for subject, scored in chosen.items()}
    for subject, kinds in answered.items():
        counted = {k: s for k, s in kinds.items() if ANSWER_KINDS[k].headline}
        if subject not in found and counted:
            found[subject] = _of_answers(list(counted.values()))
    return found


def _of_choices(scored: Mapping[str, Any]) -> dict[str, Any]:
    error = scored["standard_error"]
    return {"measure": "accuracy", "value": scored["accuracy"], "standard_error": error}


def _of_answers(kinds: list[Mapping[str, Any]]) -> dict[str, Any]:
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
