"""Rows of published data sets, checked before anything is made of them.

Which questions and texts are taken where not all are: a hash of their wording decides.

So neither their order in a file nor a random number does, and next time the same are taken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seuf.benchmarks.records import Question
from seuf.inputs import InputError

Record = Mapping[str, Any]


def check_rows(
    name: str,
    rows: Sequence[Record],
    columns: Sequence[str],
    may_be_empty: Sequence[str] = (),
) -> None:
    """Raise for the first row that lacks a text.

    Args:
        name: What the rows are called in an error.
        rows: What came.
        columns: What must be a text in each row.
        may_be_empty: Those of the columns whose text may be empty.

    Raises:
        InputError: With the row's number and what it has; if there are no rows.
    """
    if not rows:
        raise InputError(f"{name} has no rows.")
    for number, row in enumerate(rows, 1):
        for column in columns:
            value = row.get(column)
            if not isinstance(value, str) or not (value.strip() or column in may_be_empty):
                has = ", ".join(map(repr, row))
                raise InputError(
                    f"{name}, row {number}: `{column}` must be a text that is not empty; the row "
                    f"has {has}."
                )


def long_texts(name: str, rows: Sequence[Record], min_length: int) -> list[str]:
    """Return the texts of at least so many characters, which headings do not have.

    Raises:
        InputError: If a row has no `text`, or none is long enough.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str):
            raise InputError(
                f"{name}, row {number}: `text` must be a text, not {row.get('text')!r}."
            )
    found = [row["text"] for row in rows if len(row["text"]) >= min_length]
    if not found:
        raise InputError(
            f"{name}: none of its {len(rows)} texts has {min_length} characters; take a smaller "
            "benchmark.min_length."
        )
    return found


MIN_PER_PART = 2  # in a part: a standard error needs two


def sample_positions(
    wordings: Sequence[str], number: int, groups: Sequence[str] | None = None
) -> list[int]:
    """Return the positions, in order, of at most so many items.

    Args:
        wordings: What is hashed, one an item.
        number: How many items to take.
        groups: The group of each item; every group gives its share, by its size and as near as
            whole items allow.
    """
    groups = groups or [""] * len(wordings)
    order = sorted(range(len(wordings)), key=lambda position: _digest(wordings[position]))
    sizes, seen, depths = Counter(groups), Counter[str](), dict[int, float]()
    for position in order:
        group = groups[position]
        depths[position] = (seen[group] + 0.5) / sizes[group]
        seen[group] += 1
    return sorted(sorted(order, key=depths.__getitem__)[:number])


def sample_questions(number: int | None, asked: Sequence[Question]) -> list[Question]:
    """Return so many questions, each topic giving its share, in their order; all for None."""
    if number is None:
        return list(asked)
    places = sample_positions([q.question for q in asked], number, [q.topic for q in asked])
    return [asked[place] for place in places]


def split_questions(
    asked: Sequence[Question], number: int, groups: Sequence[str] | None = None
) -> list[Question]:
    """Return questions in their order, so many in the selection part and the others in test.

    What is worded as one that selects is left out of test, so it may be fewer than came.

    Args:
        asked: The questions.
        number: How many select.
        groups: See `sample_positions`.
    """
    chosen = set(sample_positions([question.question for question in asked], number, groups))
    known = {asked[place].question for place in chosen}
    return [
        question._replace(part="selection" if place in chosen else "test")
        for place, question in enumerate(asked)
        if place in chosen or question.question not in known
    ]


def _digest(wording: str) -> str:
    return hashlib.sha256(wording.encode()).hexdigest()
