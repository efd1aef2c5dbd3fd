"""The comparison as people read it; Markdown here, HTML in `report`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from seuf.reporting.comparison import by_method, further
from seuf.reporting.draws import spread_over_draws
from seuf.reporting.words import header, headers

MISSING = "-"
Row = dict[str, Any]


def readable(comparison: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the headers and, for each method, its cells as text."""
    columns = _columns(comparison)
    rows = [[text(row) for text in columns.values()] for row in by_method(comparison).values()]
    return list(columns), rows


def markdown(comparison: pd.DataFrame) -> str:
    """Return the comparison as a GitHub table whose source lines up too."""
    headers, rows = readable(comparison)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    below = [f"\n{sentence}" for sentence in spread_over_draws(comparison)]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:], *below]) + "\n"


def number(value: float | None, form: str) -> str:
    """Return the formatted number; a dash where there is none."""
    return MISSING if value is None or pd.isna(value) else format(value, form)


def _line(cells: list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *rest])} |"


def _measured(name: str, row: Row) -> str:
    value, error = row[name], row.get(f"{name}_stderr")
    spread = "" if error is None or pd.isna(error) else f" ± {error:.3f}"
    return number(value, ".3f") + spread


def _plain(name: str, form: str, row: Row) -> str:
    return number(row[name], form)


def _columns(comparison: pd.DataFrame) -> dict[str, Callable[[Row], str]]:
    """Return how each column is made of a row, by its header."""
    forget, retain = headers(comparison)
    return {
        "method": lambda row: str(row["method"]),
        forget: partial(_measured, "forget_efficacy"),
        retain: partial(_measured, "utility"),
        **COLUMNS,
        **{header(name): partial(_measured, name) for name in further(comparison)},
    }


COLUMNS: dict[str, Callable[[Row], str]] = {
    "balance ↑": partial(_plain, "balance", ".3f"),
    "overlap forget": partial(_plain, "routing_overlap_forget", ".3f"),
    "overlap retain": partial(_plain, "routing_overlap_retain", ".3f"),
    "weights trained": partial(_plain, "trained_share", ".2%"),
    "seconds": partial(_plain, "seconds", ".1f"),
}
