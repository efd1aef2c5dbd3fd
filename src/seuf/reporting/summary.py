"""The study in a few words, computed from the comparison."""

from __future__ import annotations

from typing import Any

import pandas as pd

from seuf.reporting.comparison import best_method, by_method, original_method
from seuf.reporting.words import measure

Rows = dict[str, dict[str, Any]]


def summary(comparison: pd.DataFrame) -> str:
    """Return what the best method reached, and which others are as good within their errors."""
    best, original = best_method(comparison), original_method(comparison)
    if best is None:
        return "No method changed the model: all numbers below are those of the original."
    rows = by_method(comparison)
    trained = sum(1 for row in rows.values() if row["trained_share"])
    reached = _reached(rows, best, original)
    sentences = [
        f"{best} has the best balance of {trained} methods: {reached}.",
        _rivals(rows, best),
        _warning(rows, best, original),
    ]
    return " ".join(filter(None, sentences))


def headline(comparison: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the best method's numbers, each with what it says; none if there is no best."""
    best, original = best_method(comparison), original_method(comparison)
    if best is None:
        return []
    rows = by_method(comparison)
    row = rows[best]
    forget, retain = (measure(comparison, what) for what in ("forget", "utility"))
    return [
        (_from_to(rows, best, original, "forget_efficacy"), f"{forget} on forget questions"),
        (_from_to(rows, best, original, "utility"), f"{retain} on retain questions"),
        (f"{row['trained_share']:.2%}", "of the weights were trained"),
        (f"{row['routing_overlap_retain']:.1%}", "of retain routing as before"),
    ]


def _reached(rows: Rows, best: str, original: str | None) -> str:
    row, before = rows[best], rows[original] if original else None
    guessing = f", {row['chance']:.0%} by guessing" if row["chance"] else ""
    forget, retain = row["forget_measure"], row["utility_measure"]
    first = f"{_verb(forget)} {_share(row, before, 'forget', 'forget_efficacy', guessing)}"
    second = _share(row, before, "retain", "utility")
    return f"it {first} and {second if forget == retain else f'{_verb(retain)} {second}'}"


def _verb(measured: str) -> str:
    return "answers" if measured == "accuracy" else "gives"


def _share(
    row: dict[str, Any],
    before: dict[str, Any] | None,
    subject: str,
    name: str,
    guessing: str = "",
) -> str:
    accuracy = row["forget_measure" if subject == "forget" else "utility_measure"] == "accuracy"
    what = f"the {subject} questions" if accuracy else f"the answers to {subject} questions"
    was = f" ({before[name]:.1%} before{guessing})" if before else ""
    return f"{row[name]:.1%} of {what}{was}"


def _rivals(rows: Rows, best: str) -> str:
    """Name the methods whose balance is not two standard errors below the best one's."""
    if pd.isna(rows[best]["forget_efficacy_stderr"]):
        return ""
    rivals = {name: row for name, row in rows.items() if row["changed_tensors"] and name != best}
    near = [name for name, row in rivals.items() if _as_good(row, rows[best])]
    if not near:
        return "No other method is within two standard errors of it."
    are = "is" if len(near) == 1 else "are"
    return f"Within two standard errors of it {are} {', '.join(near)}."


def _warning(rows: Rows, best: str, original: str | None) -> str:
    if original is None or rows[best]["balance"] > rows[original]["balance"]:
        return ""
    return "No method has a better balance than the original model."


def _as_good(row: dict[str, Any], best: dict[str, Any]) -> bool:
    errors = [r[f"{name}_stderr"] for r in (row, best) for name in ("forget_efficacy", "utility")]
    spread = sum(float(error) ** 2 for error in errors if not pd.isna(error)) ** 0.5
    return bool(best["balance"] - row["balance"] <= 2 * spread)


def _from_to(rows: Rows, best: str, original: str | None, name: str) -> str:
    after = f"{rows[best][name]:.3f}"
    return after if original is None else f"{rows[original][name]:.3f} → {after}"
