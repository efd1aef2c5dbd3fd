"""Which rows of a published data set are used, and checks of them before anything is made of them.

Where not all rows are taken, or questions are split in two parts, a hash of the wording decides:
neither the order of a file nor a random number does, and the next run takes the same rows.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from seuf.benchmarks.records import Question, Text
from seuf.inputs import InputError

Record = Mapping[str, Any]

MIN_PER_PART = 2  # a standard error needs two
GENERAL_LENGTH = 200  # characters of a passage for the general loss, at least: no headings


def check_rows(
    name: str,
    rows: Sequence[Record],
    columns: Sequence[str],
    may_be_empty: Sequence[str] = (),
) -> None:
    """Raise for the first row that lacks a text.

    Args:
        name: What the rows are called in an error.
        rows: The rows.
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
    long = [row["text"] for row in rows if len(row["text"]) >= min_length]
    if not long:
        raise InputError(
            f"{name}: none of its {len(rows)} texts has {min_length} characters; take a smaller "
            "benchmark.min_length."
        )
    return long


def general_passages(
    rows: Sequence[Record], number: int, source: str | None = "wikitext"
) -> list[Text]:
    """Return texts for the general loss, at most so many; none where there is no row.

    Args:
        rows: Of WikiText's test split, or what a dense model said and nobody trains on.
        number: How many to take.
        source: `wikitext`, of which headings are left out, or `sampled`.
    """
    if not rows:
        return []
    if source == "sampled":
        check_rows("sampled_apart", rows, ["text"])
        texts = [row["text"] for row in rows]
    else:
        source, texts = "wikitext", long_texts("wikitext, test", rows, GENERAL_LENGTH)
    return [Text(texts[position], source) for position in sample_positions(texts, number)]


def even_pieces(text: str, words: int) -> list[str]:
    """Return a text cut into as few pieces of at most so many words as it needs, equally long."""
    found = re.findall(r"\s*\S+", text)  # a word with what stands before it
    number = -(-len(found) // words)
    ends = [len(found) * at // number for at in range(number + 1)] if found else []
    return ["".join(found[first:end]).strip() for first, end in pairwise(ends)]


def sample_positions(
    wordings: Sequence[str], number: int, groups: Sequence[str] | None = None
) -> list[int]:
    """Return the positions, in order, of at most so many items.

    Args:
        wordings: What is hashed, one for each item.
        number: How many items to take.
        groups: The group of each item; every group gives its share, by its size and as near as
            whole items allow.
    """
    groups = groups or [""] * len(wordings)
    hashes = [hashlib.sha256(wording.encode()).hexdigest() for wording in wordings]
    by_hash = sorted(range(len(wordings)), key=hashes.__getitem__)
    sizes, taken, depths = Counter(groups), Counter[str](), dict[int, float]()
    for position in by_hash:
        group = groups[position]
        depths[position] = (taken[group] + 0.5) / sizes[group]
        taken[group] += 1
    return sorted(sorted(by_hash, key=depths.__getitem__)[:number])


def sample_questions(number: int | None, questions: Sequence[Question]) -> list[Question]:
    """Return so many questions, each topic giving its share, in their order; all for None."""
    if number is None:
        return list(questions)
    wordings = [question.question for question in questions]
    topics = [question.topic for question in questions]
    return [questions[position] for position in sample_positions(wordings, number, topics)]


def split_questions(
    questions: Sequence[Question], number: int, groups: Sequence[str] | None = None
) -> list[Question]:
    """Return questions in their order, so many in the selection part and the others in test.

    A question that is worded as one that selects is left out of test, so there may be fewer.

    Args:
        questions: The questions.
        number: How many select.
        groups: See `sample_positions`.
    """
    selecting = set(sample_positions([q.question for q in questions], number, groups))
    wordings = {questions[position].question for position in selecting}
    return [
        question._replace(part="selection" if position in selecting else "test")
        for position, question in enumerate(questions)
        if position in selecting or question.question not in wordings
    ]
