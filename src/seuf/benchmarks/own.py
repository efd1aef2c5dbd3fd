"""Your own data: texts to forget, texts to keep, and multiple-choice questions about both.

docs/own-data.md tells how to write the three files. Here they are checked and the questions split.

1. A question keeps the `part` its line gives. The others are split by a hash of their wording, so
   neither their order in the file nor a random number decides.
2. Two wordings of one fact may fall on both sides of the split; give them the same `part`.
3. A question without a `reference` has its right choice as one, so what the model says is measured
   too (see `produced`). Give one where the model would not end with the choice: `Oslo.`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Annotated, get_args

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Part, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, BenchmarkSettings
from seuf.benchmarks.sampling import MIN_PER_PART, Record, sample_positions
from seuf.inputs import InputError

SUBJECTS: tuple[Subject, ...] = get_args(Subject)
PARTS: tuple[Part, ...] = get_args(Part)


class OwnSettings(BenchmarkSettings):
    """Your own forget set, retain set and questions, named in the study's globals.yml.

    Attributes:
        selection_share: Share of the questions that choose the checkpoint; the others are
            reported. A question whose line has `part` keeps it.
        general: The file of texts that neither set holds, for the general loss; null without one.
    """

    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    general: str | None = None


def prepare(
    settings: OwnSettings,
    forget: Sequence[Record],
    retain: Sequence[Record],
    questions: Sequence[Record],
    general: Sequence[Record] = (),
) -> BenchmarkData:
    """Check your own texts and questions and split the questions.

    Args:
        settings: How questions are split.
        forget: Records with `text`, maybe `topic`.
        retain: The same.
        questions: Records with `question`, `choices`, `answer` (position, from 0) and `subject`;
            maybe `part`, `topic` and `reference`, the answer in words as the model should give it.

        general: Records like those of the two sets, of which the model should lose nothing.

    Raises:
        InputError: For the first record that cannot be used, with its number; if both sets hold
            the same text, or a general one is in either; if a part has fewer than two questions of
            a subject. Of `unseen` there may be none.
    """
    to_forget, to_keep = _texts("forget", forget), _texts("retain", retain)
    kept = {text.text.strip() for text in to_keep}
    shared = [text.text for text in to_forget if text.text.strip() in kept]
    if shared:
        raise InputError(
            f"{len(shared)} of the texts to forget are among the texts to keep; the first: "
            f"{shared[0][:80]!r}."
        )
    untold = _texts("general", general)
    shown = kept | {text.text.strip() for text in to_forget}
    if shared := [text.text for text in untold if text.text.strip() in shown]:
        raise InputError(
            f"{len(shared)} of the general texts are among those to forget or to keep, the first: "
            f"{shared[0][:80]!r}. Take texts that the training does not show."
        )
    asked = _questions(questions, settings.selection_share)
    return BenchmarkData(to_forget, to_keep, asked, general=untold)


def _texts(name: str, records: Sequence[Record]) -> list[Text]:
    for number, record in enumerate(records, 1):
        if not _is_text(record["text"]):
            raise InputError(f"{name} text {number}: `text` must be a text that is not empty.")
    return [Text(record["text"], str(record.get("topic", ""))) for record in records]


def _questions(records: Sequence[Record], share: float) -> list[Question]:
    """Return the questions in the order of the file, each in its part."""
    for number, record in enumerate(records, 1):
        if error := _error(record):
            raise InputError(f"question {number}: {error}.")
    selecting: set[int] = set()
    for subject in SUBJECTS:
        free = [
            position
            for position, record in enumerate(records)
            if record["subject"] == subject and not record.get("part")
        ]
        wordings = [records[position]["question"] for position in free]
        taken = sample_positions(wordings, round(share * len(free)))
        selecting.update(free[position] for position in taken)
    questions = [
        Question(
            question=record["question"],
            choices=record["choices"],
            answer=record["answer"],
            topic=str(record.get("topic", "")),
            subject=record["subject"],
            part=record.get("part") or ("selection" if position in selecting else "test"),
            reference=str(record.get("reference") or record["choices"][record["answer"]]),
        )
        for position, record in enumerate(records)
    ]
    numbers = Counter((question.part, question.subject) for question in questions)
    asked = {"forget", "retain", *(question.subject for question in questions)}
    for part, subject in product(PARTS, sorted(asked)):
        if (count := numbers[part, subject]) < MIN_PER_PART:
            raise InputError(
                f"The {part} part has {count} questions of subject {subject}, it needs "
                f"{MIN_PER_PART} or more: add some, or change benchmark.selection_share or `part`."
            )
    return questions


def _error(record: Record) -> str | None:
    """Return what is wrong with a question, None if nothing is."""
    choices, answer = record["choices"], record["answer"]
    if not _is_text(record["question"]) or record["question"] != record["question"].rstrip():
        return "`question` must be a text that does not end in a space: one is put before a choice"
    if not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        return "`choices` must be a list of two or more texts"
    if len(set(choices)) < len(choices):
        return f"`choices` must differ from each other, not {choices}"
    if type(answer) is not int or not 0 <= answer < len(choices):
        return f"`answer` must be a position from 0 to {len(choices) - 1}, not {answer!r}"
    if record["subject"] not in SUBJECTS:
        return f"`subject` must be one of {', '.join(SUBJECTS)}, not {record['subject']!r}"
    if (part := record.get("part")) and part not in PARTS:
        return f"`part` must be {' or '.join(PARTS)}, or left out, not {part!r}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _inputs(settings: OwnSettings) -> dict[str, str]:
    names = ["forget", "retain", "questions", *(["general"] if settings.general else [])]
    return {name: f"own_{name}" for name in names}


BENCHMARK = Benchmark(
    OwnSettings,
    prepare,
    inputs=_inputs,
    has_pretraining_texts=False,
    has_passages=False,
)
