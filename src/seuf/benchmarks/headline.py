"""The headline score of each subject: `forget`, `retain`, `unseen`.

Forget efficacy is the score of `forget`, utility that of `records.utility_subject`. The study
chooses the score by `evaluation.headline`:

- `choices`: the accuracy on the subject's questions with choices; without any, the mean over free
  answers of kinds in the headline (see `AnswerKind`).
- `produced`: the share of greedy answers that are the reference (see `produced`).

`HeadlineScorer` scores single questions while a method trains; `headline` takes the scores from
those that are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from seuf.benchmarks.answers import free_answers, measure_answers
from seuf.benchmarks.choices import ChoiceScorer, chance
from seuf.benchmarks.produced import ProducedScorer
from seuf.benchmarks.records import ANSWER_KINDS, Part, Question, Subject
from seuf.benchmarks.sampling import sample_questions
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel


class HeadlineScorer:
    """Score a model that changes between calls on fixed questions, by the headline's measure.

    Args:
        base: The model whose tokenizer is used; each call is given the model to score.
        questions: The questions, of any part and subject.
        settings: How answers are scored.

    Raises:
        InputError: If produced answers decide, and the questions of a subject have no reference.
    """

    def __init__(
        self, base: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
    ) -> None:
        self.base, self.questions, self.settings = base, list(questions), settings
        choices, produced, self.free = _by_measure(self.questions, settings)
        tokenizer, size = base.tokenizer, settings.batch_size
        self.choices = ChoiceScorer(tokenizer, choices, settings.metric, size, settings.max_length)
        self.produced = ProducedScorer(tokenizer, produced, size, settings.max_length)

    def right(self, model: Any) -> dict[tuple[Part, Subject], list[float]]:
        """Return the scores of single questions by part and subject, in the order of the questions.

        1 is a right answer, 0 a wrong one; a free answer has its ROUGE-L.
        """
        measured = list(zip(self.choices.questions, self.choices.right(model), strict=True))
        measured += zip(self.produced.questions, self.produced.right(model), strict=True)
        subject_model = replace(self.base, model=model)
        for name, asked in self.free.items():
            kind = ANSWER_KINDS[name]
            answers = free_answers(subject_model, asked, kind, self.settings)
            values = measure_answers(subject_model, asked, answers, kind, self.settings)
            measured += zip(asked, values, strict=True)
        value_of = {id(question): value for question, value in measured}
        right: dict[tuple[Part, Subject], list[float]] = {}
        for question in self.questions:
            if id(question) in value_of:
                key = question.part, question.subject
                right.setdefault(key, []).append(value_of[id(question)])
        return right

    def chance(self, part: Part) -> float:
        """Return the accuracy of guessing on the forget questions of a part; 0 without choices."""
        return chance([q for q in self.choices.questions if q.part == part])


def _by_measure(
    questions: Sequence[Question], settings: ScoringSettings
) -> tuple[list[Question], list[Question], dict[str, list[Question]]]:
    """Return the questions that count by choices, by produced answers, and by kind of free answer.

    Raises:
        InputError: If produced answers decide, and the questions of a subject have no reference.
    """
    if settings.headline == "produced":
        produced = [question for question in questions if question.is_produced()]
        check_all_produced(questions)
        return [], produced, {}
    choices = [q for q in questions if q.is_multiple_choice() and q.counts()]
    subjects, free = {question.subject for question in choices}, dict[str, list[Question]]()
    for question in questions:
        counted = question.counts() and question.subject not in subjects
        if counted and question.is_free_answer(with_choices=False):
            free.setdefault(question.kind, []).append(question)
    return choices, [], free


def check_all_produced(questions: Sequence[Question]) -> None:
    """Raise if a subject has no question whose produced answer can be judged right or wrong.

    Raises:
        InputError: With the subject, and what to set.
    """
    for subject in sorted({question.subject for question in questions}):
        if not any(q.is_produced() for q in questions if q.subject == subject):
            raise InputError(
                f"evaluation.headline is produced, but no question about {subject} has a "
                "`reference` of kind `answer`; set it to choices."
            )


def questions_in_training(questions: Sequence[Question], at_most: int | None) -> list[Question]:
    """Return the questions asked while a model trains: all of selection, and some of test.

    Args:
        questions: The questions of both parts.
        at_most: Maximum number of test questions of each subject, of those that count; None takes
            all.
    """
    subjects = dict.fromkeys(question.subject for question in questions)
    tested = [
        question
        for subject in subjects
        for question in sample_questions(
            at_most,
            [q for q in questions if (q.part, q.subject) == ("test", subject) and q.counts()],
        )
    ]
    return [*(question for question in questions if question.part == "selection"), *tested]


def headline(scores: Mapping[str, Mapping[str, Any]], by: str = "choices") -> dict[str, Any]:
    """Return the headline score of each subject, from all scores of a model.

    Args:
        scores: `questions` by `Question.scored_as`, `produced` by subject, and `generation` by
            subject and kind; those that were not measured may be missing.
        by: `evaluation.headline`.

    Returns:
        For each subject `measure`, `value` and `standard_error`.
    """
    if by == "produced":
        return {
            subject: {name: scored[name] for name in ("measure", "value", "standard_error")}
            for subject, scored in scores.get("produced", {}).items()
        }
    numbers = {
        subject: {
            "measure": "accuracy",
            "value": scored["accuracy"],
            "standard_error": scored["standard_error"],
        }
        for subject, scored in scores.get("questions", {}).items()
        if subject in get_args(Subject)
    }
    for subject, by_kind in scores.get("generation", {}).items():
        counted = [scored for kind, scored in by_kind.items() if ANSWER_KINDS[kind].headline]
        if subject not in numbers and counted:
            numbers[subject] = _mean_of_kinds(counted)
    return numbers


def _mean_of_kinds(kinds: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean over the answers of several kinds, and its standard error."""
    total = sum(scored["questions"] for scored in kinds)
    value = sum(scored["questions"] * scored["value"] for scored in kinds) / total
    # the variance of a mean over strata of fixed sizes
    variance = sum((s["questions"] / total * s["standard_error"]) ** 2 for s in kinds)
    return {
        "measure": kinds[0]["measure"],
        "value": value,
        "standard_error": variance**0.5,
    }
