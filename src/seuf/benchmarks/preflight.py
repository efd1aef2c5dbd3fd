"""Check what the original model knows and how long its questions are, before a study begins.

What a model does not know cannot be shown to be forgotten, and a prompt of more tokens than the
model has positions would stop a study in the middle: `doubts_of` and `check_fit` find both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from seuf.benchmarks.records import ANSWER_KINDS, Question, utility_subject
from seuf.forgetting import is_known
from seuf.inputs import InputError, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel

ABOUT = {
    "forget": "what is to be forgotten",
    "retain": "what must stay",
    "unseen": "what neither set shows",
}


class PreflightSettings(Settings):
    """When a study stops before anything is trained.

    Attributes:
        strict: Stop if the original model only guesses at what is to be forgotten, or if there are
            too few questions; otherwise warn.
        fewest_questions: Least number of questions of each subject in each part.
    """

    strict: bool = True
    fewest_questions: Annotated[int, Field(gt=1)] = 10


def ask_original(
    base: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> list[dict[str, Any]]:
    """Return the model's scores by subject and part, as in the evaluations of a method.

    Returns:
        Rows with `subject`, `part`, `questions` (how many count), `value` (the mean), `measure`
        (`accuracy` of choices, or one of `MEASURES`) and `chance`: the accuracy of guessing among
        choices, or for free answers the score of the next question's reference.
    """
    from seuf.benchmarks.choices import chance
    from seuf.benchmarks.headline import HeadlineScorer

    scorer, rows = HeadlineScorer(base, questions, settings), []
    for (part, subject), values in sorted(scorer.right(base.model).items()):
        choices, produced, free = (
            [q for q in asked if (q.part, q.subject) == (part, subject)]
            for asked in (
                scorer.choices.questions,
                scorer.produced.questions,
                [question for of_kind in scorer.free.values() for question in of_kind],
            )
        )
        measures = [ANSWER_KINDS[question.kind].measure for question in free]
        measures += [question.produced_by() for question in produced]
        of_next = _scores_of_next([*free, *produced], measures)
        rows.append(
            {
                "subject": subject,
                "part": part,
                "questions": len(values),
                "value": mean(values),
                "measure": "accuracy" if choices else measures[0],
                "chance": chance(choices, subject) if choices else mean(of_next),
            }
        )
    return rows


def _scores_of_next(questions: Sequence[Question], measures: Sequence[str]) -> list[float]:
    """Return the score of the next question's reference on each question; 0 for a single one."""
    from seuf.benchmarks.answers import MEASURES

    if len(questions) == 1:
        return [0.0]
    following = [*questions[1:], *questions[:1]]
    return [
        MEASURES[measure](question.reference, other.reference)
        for question, other, measure in zip(questions, following, measures, strict=True)
    ]


def doubts_of(rows: Sequence[Mapping[str, Any]], settings: PreflightSettings) -> list[str]:
    """Return a warning for each subject that the original does not know or that has few questions.

    Args:
        rows: See `ask_original`.
        settings: The fewest questions, and whether to stop.

    Raises:
        InputError: With all warnings, if one of them means that the study could show nothing.
    """
    subjects = {row["subject"] for row in rows}
    stops, warns = list[str](), list[str]()
    for subject in ("forget", utility_subject(subjects)):
        of_subject = [row for row in rows if row["subject"] == subject]
        asked = sum(row["questions"] for row in of_subject)
        value, chance = (
            sum(row["questions"] * row[name] for row in of_subject) / asked
            for name in ("value", "chance")
        )
        if not is_known(value, chance, asked):
            (stops if subject == "forget" else warns).append(
                f"The model does not know {ABOUT[subject]}: it scores {value:.3f} on {asked} "
                f"questions, {guessing(of_subject[0])} {chance:.3f}."
            )
    stops += [
        f"Only {row['questions']} questions ask for {ABOUT[row['subject']]} in the {row['part']} "
        f"part; {settings.fewest_questions} are needed to tell anything."
        for row in rows
        if row["questions"] < settings.fewest_questions
    ]
    if stops and settings.strict:
        raise InputError(
            f"{' '.join([*stops, *warns])} Bring what the model knows and more questions, or set "
            "preflight.strict to false."
        )
    return [*stops, *warns]


def guessing(row: Mapping[str, Any]) -> str:
    """Return the words that introduce the `chance` of a row."""
    return "guessing gives" if row["measure"] == "accuracy" else "the answer to another one scores"


def check_fit(base: LanguageModel, questions: Sequence[Question], settings: ScoringSettings) -> int:
    """Return the most tokens that the model reads at once for a question with its answer.

    Raises:
        InputError: If the model has fewer positions; with the number of such questions.
    """
    from seuf.moe.architectures import positions_of

    tokens, positions = (
        tokens_at_once(base.tokenizer, questions, settings),
        positions_of(base.model),
    )
    if positions is not None and (long := sum(number > positions for number in tokens)):
        raise InputError(
            f"{long} of {len(tokens)} questions have more tokens, with what is to be said, than "
            f"the model has positions ({positions}); the longest {max(tokens)}. Ask shorter "
            "questions, with fewer examples before them, or set evaluation.max_length lower and "
            "evaluation.may_cut to the share of questions that may lose their beginning."
        )
    return max(tokens)


def tokens_at_once(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], settings: ScoringSettings
) -> list[int]:
    """Return for each question the most tokens that the model reads at once to score it.

    Those of the question with its longest choice or its reference, or with the longest answer that
    may be generated.
    """
    from seuf.benchmarks.answers import chat_prompt, example_questions, example_tokens
    from seuf.moe.batches import open_ids

    tested = [question for question in questions if question.part == "test"]
    shown = example_questions(tested)
    shown_tokens, is_shown = example_tokens(tokenizer, shown, settings), set(map(id, shown))
    references = [question.reference for question in tested if question.is_produced()]
    longest = max(map(len, open_ids(tokenizer, references)), default=0) + 2  # a space, an end
    counts = []
    for question in questions:
        kind, prompt = ANSWER_KINDS[question.kind], question.question
        if kind.chat and tokenizer.chat_template:
            prompt = chat_prompt(tokenizer, prompt)
        prompt += question.opening
        said = question.choices or ([question.reference] if question.reference else [])
        texts = [prompt, *(f"{question.question + question.opening} {one}" for one in said)]
        read, *whole = map(len, open_ids(tokenizer, texts))
        new = 0
        if question.is_free_answer(settings.generate):
            new = kind.max_new_tokens or settings.max_new_tokens
        elif question.part == "test" and question.is_produced():
            new = longest
        if id(question) in is_shown:
            new = max(new, kind.max_new_tokens or shown_tokens)
        length = settings.max_length
        counts.append(max([min(read, length) + new, *(min(n, length) for n in whole)]))
    return counts
