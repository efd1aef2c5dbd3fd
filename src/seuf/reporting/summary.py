"""The study in a few words, computed from the comparison."""

from __future__ import annotations

from typing import Any

import pandas as pd

from seuf.reporting.comparison import best_method, by_method, reference_method

Rows = dict[str, dict[str, Any]]


def summary(comparison: pd.DataFrame) -> str:
    """Return what the best method reached, and which others are as good within their errors."""
    best, reference = best_method(comparison), reference_method(comparison)
    if best is None:
        return "No method changed the model: all numbers below are those of the original."
    rows = by_method(comparison)
    trained = sum(1 for row in rows.values() if row["trained_share"])
    reached = _reached(rows, best, reference)
    sentences = [
        f"{best} has the best balance of {trained} methods: {reached}.",
        _rivals(rows, best),
        _warning(rows, best, reference),
    ]
    return " ".join(filter(None, sentences))


def headline(comparison: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the best method's numbers, each with what it says; none if there is no best."""
    best, reference = best_method(comparison), reference_method(comparison)
    if best is None:
        return []
    rows = by_method(comparison)
    row = rows[best]
    return [
        (_from_to(rows, best, reference, "forget_efficacy"), "accuracy on forget questions"),
        (_from_to(rows, best, reference, "utility"), "accuracy on retain questions"),
        (f"{row['trained_share']:.2%}", "of the weights were trained"),
        (f"{row['routing_overlap_retain']:.1%}", "of retain routing as before"),
    ]


def _reached(rows: Rows, best: str, reference: str | None) -> str:
    row = rows[best]
    forget, retain = f"{row['forget_efficacy']:.1%}", f"{row['utility']:.1%}"
    if reference is None:
        return f"it answers {forget} of the forget questions and {retain} of the retain questions"
    before = rows[reference]
    return (
        f"it answers {forget} of the forget questions ({before['forget_efficacy']:.1%} before, "
        f"{row['chance']:.0%} by guessing) and {retain} of the retain questions "
        f"({before['utility']:.1%} before)"
    )


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


def _warning(rows: Rows, best: str, reference: str | None) -> str:
    if reference is None or rows[best]["balance"] > rows[reference]["balance"]:
        return ""
    return "No method has a better balance than the original model."


def _as_good(row: dict[str, Any], best: dict[str, Any]) -> bool:
    errors = [r[f"{name}_stderr"] for r in (row, best) for name in ("forget_efficacy", "utility")]
    spread = sum(float(error) ** 2 for error in errors if not pd.isna(error)) ** 0.5
    return bool(best["balance"] - row["balance"] <= 2 * spread)


def _from_to(rows: Rows, best: str, reference: str | None, name: str) -> str:
    after = f"{rows[best][name]:.3f}"
    return after if reference is None else f"{rows[reference][name]:.3f} → {after}"
