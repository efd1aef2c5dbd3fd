"""Your own data: texts to forget, texts to keep, and multiple-choice questions about both.

docs/own-data.md says how to write the three files. Here they are checked and the questions split.

1. A question keeps the `part` on its line. The others are split by a hash of their wording, not by
   their order or a random number; equal wordings stay together.
2. Two wordings of one fact may fall on both sides of the split; give them the same `part`.
3. Without a file of questions the texts are used to ask: a piece is shown without its last words,
   which the model should no longer (or still) say. See `continuations`.
4. Wordings are equal up to case, spacing and composed accents, see `same_wording`.
5. A question without a `reference` takes its right choice as one, so that produced answers are
   measured too (see `produced`). Give one if the model should say more than the choice: `Oslo.`
"""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, get_args

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Part, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, BenchmarkSettings
from seuf.benchmarks.sampling import (
    MIN_PER_PART,
    Record,
    even_pieces,
    sample_positions,
    spaced_words,
    split_questions,
)
from seuf.inputs import InputError

SUBJECTS: tuple[Subject, ...] = get_args(Subject)
PARTS: tuple[Part, ...] = get_args(Part)
TEXT_FIELDS = ("text", "topic", "prompt")
QUESTION_FIELDS = ("question", "choices", "answer", "subject", "part", "topic", "reference")
PIECE_WORDS, SAID_WORDS = 48, 16
log = logging.getLogger(__name__)


class OwnSettings(BenchmarkSettings):
    """Your own forget set, retain set and questions, named in the study's globals.yml.

    Attributes:
        selection_share: Share of the questions that choose the checkpoint; the others are
            reported. A question whose line has `part` keeps it.
        questions: The file of questions; null to ask for continuations of the texts.
        continuations: Maximum number of continuations that are then asked for in each set.
        general: The file of texts in neither set, for the general loss; null without one.
    """

    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    questions: str | None = "questions.jsonl"
    continuations: Annotated[int, Field(ge=2 * MIN_PER_PART)] = 100
    general: str | None = None


def prepare(
    settings: OwnSettings,
    forget: Sequence[Record],
    retain: Sequence[Record],
    questions: Sequence[Record] | None = None,
    general: Sequence[Record] = (),
) -> BenchmarkData:
    """Check your own texts and questions and split the questions.

    A repeated text or question is used once; a warning counts the repetitions.

    Args:
        settings: How questions are split.
        forget: Records with `text`, maybe `topic`, and maybe `prompt`: the beginning of the text
            that no loss is taken of.
        retain: The same.
        questions: Records with `question`, `subject` and `choices` with `answer` (position, from 0)
            or `reference`, the answer in words as the model should give it, or both; maybe `part`
            and `topic`. None asks for continuations of the texts.
        general: Records like those of the two sets, on which the model should lose nothing.

    Raises:
        InputError: For the first unusable record, with its number; if a text is in both sets, or a
            general one in either; if one question has two subjects, parts or right choices; if a
            part has fewer than two questions of a subject. There need be none of `unseen`.
    """
    to_forget, to_keep = _texts("forget", forget), _texts("retain", retain)
    kept = {same_wording(text.text) for text in to_keep}
    shared = [text.text for text in to_forget if same_wording(text.text) in kept]
    if shared:
        raise InputError(
            f"{len(shared)} of the texts to forget are among the texts to keep; the first: "
            f"{shared[0][:80]!r}."
        )
    general_texts = _texts("general", general)
    trained = kept | {same_wording(text.text) for text in to_forget}
    if shared := [text.text for text in general_texts if same_wording(text.text) in trained]:
        raise InputError(
            f"{len(shared)} of the general texts are among those to forget or to keep, the first: "
            f"{shared[0][:80]!r}. Take texts that the training does not show."
        )
    if questions is None:
        asked = [
            *continuations(to_forget, "forget", settings),
            *continuations(to_keep, "retain", settings),
        ]
    else:
        asked = _questions(questions, settings.selection_share)
    _check_parts(asked)
    return BenchmarkData(to_forget, to_keep, asked, general=general_texts)


def same_wording(text: str) -> str:
    """Return a text without differences in case, spacing and composed accents."""
    return unicodedata.normalize("NFC", " ".join(text.casefold().split()))


def continuations(texts: Sequence[Text], subject: Subject, settings: OwnSettings) -> list[Question]:
    """Return questions that show a piece of a text without its end, which is the reference.

    A text is cut into even pieces of at most `PIECE_WORDS` words. The last third of a piece, at
    most `SAID_WORDS` words, is the reference; pieces of fewer than three words are skipped. MUSE
    asks so with longer pieces (Shi et al. 2024, verbatim memorisation).

    Raises:
        InputError: If there are too few pieces.
    """
    by_wording: dict[str, Question] = {}
    for text in texts:
        for piece in even_pieces(text.text, PIECE_WORDS):
            words = spaced_words(piece)
            if length := min(SAID_WORDS, len(words) // 3):
                shown, rest = "".join(words[:-length]), "".join(words[-length:]).strip()
                by_wording.setdefault(
                    same_wording(shown),
                    Question(shown, [], -1, text.topic, subject, "test", rest, "continuation"),
                )
    asked = list(by_wording.values())
    taken = sample_positions([one.question for one in asked], settings.continuations)
    asked = [asked[position] for position in taken]
    if len(asked) < 2 * MIN_PER_PART:
        raise InputError(
            f"The {subject} texts have {len(asked)} places to ask for a continuation, "
            f"{2 * MIN_PER_PART} are needed: give more texts (of three words or more, with "
            "spaces), or a file of questions."
        )
    return split_questions(asked, round(settings.selection_share * len(asked)))


def _texts(name: str, records: Sequence[Record]) -> list[Text]:
    texts: dict[str, Text] = {}
    for number, record in enumerate(records, 1):
        where = f"{name} text {number}"
        _check_fields(where, record, TEXT_FIELDS)
        if not _is_text(record["text"]):
            raise InputError(f"{where}: `text` must be a text that is not empty.")
        text = Text(record["text"], _optional(record, "topic"), _optional(record, "prompt"))
        if not text.text.startswith(text.prompt):
            raise InputError(f"{where}: `text` must begin with its `prompt` {text.prompt[:60]!r}.")
        texts.setdefault(same_wording(text.text), text)
    _warn_of_repeated(f"{name} texts", len(records), len(texts))
    return list(texts.values())


def _check_fields(where: str, record: Record, known: Sequence[str]) -> None:
    if unknown := [name for name in record if name not in known]:
        raise InputError(
            f"{where}: unknown {', '.join(map(repr, unknown))}; known: {', '.join(known)}. What is "
            "not known would be left out: take it away, or put it in one of these."
        )


def _optional(record: Record, name: str) -> str:
    """Return a field, empty if it is missing or null."""
    return "" if record.get(name) is None else str(record[name])


def _warn_of_repeated(what: str, given: int, used: int) -> None:
    if given > used:
        log.warning(
            "%d of %d %s repeat earlier ones, but for case, spacing and accents: used once.",
            given - used, given, what,
        )  # fmt: skip


@dataclass
class _Wording:
    """All questions of one wording."""

    subject: Subject
    part: Part | None
    numbers: list[int]  # of its questions, from 1


def _questions(records: Sequence[Record], share: float) -> list[Question]:
    """Return the questions in the order of the file, without repetitions, each in its part."""
    for number, record in enumerate(records, 1):
        _check_fields(f"question {number}", record, QUESTION_FIELDS)
        if error := _error(record):
            raise InputError(f"question {number}: {error}.")
    distinct = _distinct(records)
    wordings = _wordings(records)
    for subject in SUBJECTS:
        unsplit = [w for w in wordings.values() if w.subject == subject and w.part is None]
        asked = [records[wording.numbers[0] - 1]["question"] for wording in unsplit]
        selecting = set(sample_positions(asked, round(share * len(unsplit))))
        for position, wording in enumerate(unsplit):
            wording.part = "selection" if position in selecting else "test"
    return [
        Question(
            question=record["question"],
            choices=choices,
            answer=record["answer"] if choices else -1,
            topic=_optional(record, "topic"),
            subject=record["subject"],
            part=wordings[same_wording(record["question"])].part or "test",
            reference=reference,
            kind="answer" if reference.isascii() else "any_script",
        )
        for record in distinct
        for choices in [record.get("choices") or []]
        for reference in [_optional(record, "reference") or choices[record["answer"]]]
    ]


def _check_parts(questions: Sequence[Question]) -> None:
    numbers = Counter((question.part, question.subject) for question in questions)
    needed = {"forget", "retain", *(question.subject for question in questions)}
    for part, subject in product(PARTS, sorted(needed)):
        if (count := numbers[part, subject]) < MIN_PER_PART:
            raise InputError(
                f"The {part} part has {count} questions of subject {subject}, it needs "
                f"{MIN_PER_PART} or more: add some, or change benchmark.selection_share or `part`."
            )


def _wordings(records: Sequence[Record]) -> dict[str, _Wording]:
    """Return the subject of each wording and the part that the file gives it, if any.

    Raises:
        InputError: If the file gives two: what selects the checkpoint would be reported too.
    """
    wordings: dict[str, _Wording] = {}
    for number, record in enumerate(records, 1):
        part = record.get("part") or None
        wording = wordings.setdefault(
            same_wording(record["question"]), _Wording(record["subject"], part, [])
        )
        for name, before, here in (
            ("subject", wording.subject, record["subject"]),
            ("part", wording.part, part),
        ):
            if before and here and before != here:
                raise InputError(
                    f"question {number}: its wording is that of question {wording.numbers[0]}, "
                    f"whose {name} is {before}, not {here}: give both the same."
                )
        wording.part = wording.part or part
        wording.numbers.append(number)
    return wordings


def _distinct(records: Sequence[Record]) -> list[Record]:
    """Return the questions without those that repeat an earlier one's wording and choices.

    Raises:
        InputError: If a repeated question has another answer.
    """
    first: dict[tuple[str, tuple[str, ...]], tuple[int, str]] = {}
    distinct = []
    for number, record in enumerate(records, 1):
        choices = record.get("choices") or []
        right = choices[record["answer"]] if choices else _optional(record, "reference")
        key = same_wording(record["question"]), tuple(sorted(map(same_wording, choices)))
        before, answer = first.setdefault(key, (number, same_wording(right)))
        if answer != same_wording(right):
            raise InputError(
                f"question {number}: it is question {before} again, with another answer: "
                f"{right[:60]!r}."
            )
        if before == number:
            distinct.append(record)
    _warn_of_repeated("questions", len(records), len(distinct))
    return distinct


def _error(record: Record) -> str | None:
    """Return what is wrong with a question, None if nothing is."""
    choices, answer = record.get("choices"), record.get("answer")
    if not _is_text(record["question"]) or record["question"] != record["question"].rstrip():
        return "`question` must be a text that does not end in a space: one is put before a choice"
    if record.get("reference") is not None and not isinstance(record["reference"], str):
        return f"`reference` must be a text, or left out, not {record['reference']!r}"
    if choices is None and answer is None:
        if not _is_text(record.get("reference")):
            return "it needs `choices` with `answer`, or `reference`, or both"
    elif not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        return "`choices` must be a list of two or more texts"
    elif len(set(map(same_wording, choices))) < len(choices):
        return f"`choices` must differ by more than case, spacing and accents, not {choices}"
    elif type(answer) is not int or not 0 <= answer < len(choices):
        return f"`answer` must be a position from 0 to {len(choices) - 1}, not {answer!r}"
    if record["subject"] not in SUBJECTS:
        return f"`subject` must be one of {', '.join(SUBJECTS)}, not {record['subject']!r}"
    if (part := record.get("part")) and part not in PARTS:
        return f"`part` must be {' or '.join(PARTS)}, or left out, not {part!r}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _inputs(settings: OwnSettings) -> dict[str, str]:
    given = {"questions": settings.questions, "general": settings.general}
    names = ["forget", "retain", *(name for name, file in given.items() if file)]
    return {name: f"own_{name}" for name in names}


BENCHMARK = Benchmark(
    OwnSettings,
    prepare,
    inputs=_inputs,
    has_pretraining_texts=False,
    has_passages=False,
)
