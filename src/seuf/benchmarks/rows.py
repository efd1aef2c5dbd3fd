"""Rows of published data sets, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seuf.errors import InputError

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
