"""Check the rows of a data set, choose which are used, and split questions into two parts.

A hash of the wording decides, not the order of a file or a random number, so the next run takes the
same rows.
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
GENERAL_LENGTH = 200  # least characters of a passage for the general loss: headings are shorter


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
        columns: The columns that must hold a text.
        may_be_empty: Those of them whose text may be empty.

    Raises:
        InputError: With the row's number and columns; if there are no rows.
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
    """Return the texts of at least `min_length` characters, which leaves out headings.

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
    """Return at most `number` texts for the general loss; none without rows.

    Args:
        rows: WikiText's test split, or texts sampled from a dense model that no method trains on.
        number: Maximum number of texts.
        source: `wikitext`, without its headings, or `sampled`.
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
    """Return a text in the fewest equal pieces of at most `words` words."""
    found = spaced_words(text)
    number = -(-len(found) // words)
    ends = [len(found) * at // number for at in range(number + 1)] if found else []
    return ["".join(found[first:end]).strip() for first, end in pairwise(ends)]


def spaced_words(text: str) -> list[str]:
    """Return the words of a text, each with the white space before it."""
    return re.findall(r"\s*\S+", text)


def sample_positions(
    wordings: Sequence[str], number: int, groups: Sequence[str] | None = None
) -> list[int]:
    """Return the positions, in order, of at most `number` items.

    Args:
        wordings: The text of each item, which is hashed.
        number: Maximum number of items.
        groups: The group of each item; groups are represented by their sizes, as near as whole
            items allow.
    """
    groups = groups or [""] * len(wordings)
    hashes = [hashlib.sha256(wording.encode()).hexdigest() for wording in wordings]
    by_hash = sorted(range(len(wordings)), key=hashes.__getitem__)
    # an item's depth is its rank in its group, from 0 to 1: the least deep of all groups are taken
    sizes, taken, depths = Counter(groups), Counter[str](), dict[int, float]()
    for position in by_hash:
        group = groups[position]
        depths[position] = (taken[group] + 0.5) / sizes[group]
        taken[group] += 1
    return sorted(sorted(by_hash, key=depths.__getitem__)[:number])


def sample_questions(number: int | None, questions: Sequence[Question]) -> list[Question]:
    """Return at most `number` questions in their order, topics by their sizes; all for None."""
    if number is None:
        return list(questions)
    wordings = [question.question for question in questions]
    topics = [question.topic for question in questions]
    return [questions[position] for position in sample_positions(wordings, number, topics)]


def split_questions(
    questions: Sequence[Question], number: int, groups: Sequence[str] | None = None
) -> list[Question]:
    """Return questions in their order, `number` of them in the selection part, the others in test.

    A test question worded as one of the selection part is left out.

    Args:
        questions: The questions.
        number: Size of the selection part.
        groups: See `sample_positions`.
    """
    selecting = set(sample_positions([q.question for q in questions], number, groups))
    wordings = {questions[position].question for position in selecting}
    return [
        question._replace(part="selection" if position in selecting else "test")
        for position, question in enumerate(questions)
        if position in selecting or question.question not in wordings
    ]
