"""Score free answers: what a model says, beside the answer it should (or should no longer) know.

Each kind of probe has its own prompt, length and measure, see `kinds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seuf.benchmarks.chat import chat_prompt
from seuf.benchmarks.generation import greedy_answers
from seuf.benchmarks.kinds import KINDS, Kind
from seuf.benchmarks.means import with_error
from seuf.benchmarks.records import Question
from seuf.benchmarks.rouge import MEASURES

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.models import LanguageModel


def score_answers(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return how well the greedy answers hold their references, by subject and kind of probe.

    Returns:
        For each subject (`forget`, `retain`) and kind `measure`, `value` (its mean),
        `standard_error` (of the mean), `questions` (their number) and `answers`: the text of each,
        in the order of the questions.
    """
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.subject, question.kind), []).append(question)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (subject, kind), asked in sorted(groups.items()):
        answers = answers_of(subject_model, asked, KINDS[kind], settings)
        values = measured(subject_model, asked, answers, KINDS[kind], settings)
        scores.setdefault(subject, {})[kind] = _scores(values, answers, KINDS[kind])
    return scores


def answers_of(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    kind: Kind,
    settings: ScoringSettings,
) -> list[str]:
    """Return the greedy answers to questions of one kind."""
    prompts = [_prompt(subject_model, question, kind) for question in questions]
    tokens = _tokens(kind, settings)
    return [_cut(a, kind.stop) for a in greedy_answers(subject_model, prompts, settings, tokens)]


def measured(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    answers: Sequence[str],
    kind: Kind,
    settings: ScoringSettings,
) -> list[float]:
    """Return what each answer to questions of one kind is measured at."""
    references = [question.reference for question in questions]
    if not kind.whole:
        tokenizer: Any = subject_model.tokenizer
        rows = tokenizer(references, add_special_tokens=False)["input_ids"]
        cut = [ids[: _tokens(kind, settings)] for ids in rows]
        references = tokenizer.batch_decode(cut, skip_special_tokens=True)
    measure = MEASURES[kind.measure]
    return [measure(held, answer) for held, answer in zip(references, answers, strict=True)]


def _tokens(kind: Kind, settings: ScoringSettings) -> int:
    return kind.max_new_tokens or settings.max_new_tokens


def _prompt(subject_model: LanguageModel, question: Question, kind: Kind) -> str:
    tokenizer: Any = subject_model.tokenizer
    if not (kind.chat and tokenizer.chat_template):
        return question.question + question.opening
    return chat_prompt(tokenizer, question.question) + question.opening


def _cut(answer: str, stops: Sequence[str]) -> str:
    """Return the answer up to the first of the stops."""
    ends = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))].strip()


def _scores(values: Sequence[float], answers: Sequence[str], kind: Kind) -> dict[str, Any]:
    return {
        "measure": kind.measure,
        **with_error(values),
        "questions": len(values),
        "answers": list(answers),
    }
