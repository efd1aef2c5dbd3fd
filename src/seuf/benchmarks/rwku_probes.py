"""RWKU's probes, worded as RWKU words them (jinzhuoran/RWKU a23df67, llmtuner/eval).

eval_forget.py and eval_neighbor.py put the question into a chat model's template and begin the
answer; see `rwku` for what is taken and `kinds` for how answers are measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from seuf.benchmarks.drawing import FEWEST, at_most, in_parts
from seuf.benchmarks.records import Question, Subject
from seuf.benchmarks.rows import Record
from seuf.errors import InputError

if TYPE_CHECKING:
    from seuf.benchmarks.settings import RwkuSettings

Sets = Mapping[str, Sequence[Record]]

FILL_BLANK = "Please complete the blank in the following question.\nQuestion: {query}\n"
BRIEFLY = "Please briefly answer the following question.\n"
QUESTION = BRIEFLY + "Question: {query}\n"
OPENING = "Answer:"
# Types of attack that are not asked as other questions are: prompt and opening.
ATTACKS = {
    "affirmative suffix": (QUESTION.removesuffix("\n"), ""),
    "incontext learning": (BRIEFLY + "{query}\n", OPENING),
}


def probes(settings: RwkuSettings, people: set[str], sets: Sets) -> list[Question]:
    """Return the probes of some people: those that may select first, then those only reported.

    Args:
        settings: How many of them.
        people: Who is forgotten.
        sets: Rows of the five sets of probes, by their configurations on the hub.

    Raises:
        InputError: If nothing is left to be reported.
    """
    split = _split(
        [
            *_probes(sets["forget_level1"], people, "forget", "fill_blank"),
            *_probes(sets["forget_level2"], people, "forget", "question"),
        ],
        settings.selection_questions,
    )
    selecting = {q.question for q in split if q.part == "selection"}
    others = (
        _probes(sets["forget_level3"], people, "forget", "adversarial"),
        _probes(sets["neighbor_level1"], people, "retain", "fill_blank"),
        _probes(sets["neighbor_level2"], people, "retain", "question"),
    )
    for asked in others:
        reported = [probe for probe in asked if probe.question not in selecting]
        split += at_most(settings.other_probes, reported)
    return split


def _probes(
    rows: Sequence[Record], people: set[str], subject: Subject, kind: str
) -> list[Question]:
    return [_probe(row, subject, kind) for row in rows if row["subject"] in people]


def _probe(row: Record, subject: Subject, kind: str) -> Question:
    prompt, opening = (FILL_BLANK if kind == "fill_blank" else QUESTION), OPENING
    if kind == "adversarial":
        prompt, opening = ATTACKS.get(row["type"], (QUESTION, OPENING))
    return Question(
        question=prompt.format(query=row["query"]),
        choices=[],
        answer=-1,
        topic=row["subject"],
        subject=subject,
        part="test",
        reference=row["answer"],
        kind=kind,
        opening=opening,
    )


def _split(asked: Sequence[Question], number: int) -> list[Question]:
    """Return the probes, each in a part; one worded as a selecting one is not reported."""
    split = in_parts(asked, number, [f"{probe.kind} {probe.topic}" for probe in asked])
    if len(split) < number + FEWEST:
        raise InputError(
            f"RWKU has {len(asked)} blanks and questions about those who are forgotten: with "
            f"benchmark.selection_questions {number} fewer than {FEWEST} are left to report."
        )
    return split
