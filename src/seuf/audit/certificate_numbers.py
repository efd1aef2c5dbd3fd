"""Numbers, times and names of a report as people read them; what is missing is said to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

UNKNOWN = "not recorded"
Z = 1.96  # standard errors on each side of a 95 % interval


def said(value: object) -> str:
    """Return a value as text."""
    return UNKNOWN if value is None or value == "" else str(value)


def when(time: str | None) -> str:
    """Return a time in UTC, to the minute; as it came if it is no ISO time with a zone."""
    try:
        return datetime.fromisoformat(time or "").astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return said(time)


def share(part: int, whole: int) -> str:
    """Return a share in per cent with three digits, so that a small one is not none."""
    return f"{100 * part / whole:.3g}%" if whole else UNKNOWN


def known(value: float | None) -> bool:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def interval(value: float | None, error: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a score, within 0 and 1; None where no error is known."""
    if value is None or error is None or not (known(value) and known(error)):
        return None
    return max(0.0, value - Z * error), min(1.0, value + Z * error)


def score(value: float | None, measure: str) -> str:
    """Return a score: accuracies in per cent, all else as a number from 0 to 1."""
    if value is None or not known(value):
        return UNKNOWN
    return f"{value:.1%}" if measure == "accuracy" else f"{value:.3f}"


def with_interval(scores: Mapping[str, Any], moment: str) -> str:
    """Return what was scored `before` or `after`, with its interval."""
    measure, between = scores["measure"], bounds(scores, moment)
    text = score(scores.get(moment), measure)
    if between is None:
        return f"{text} (no interval)"
    low, high = (score(bound, measure) for bound in between)
    return f"{text} ({low} to {high})"


def bounds(scores: Mapping[str, Any], moment: str) -> tuple[float, float] | None:
    """Return the interval of what was scored `before` or `after`."""
    return interval(scores.get(moment), scores.get(f"{moment}_error"))


def difference(scores: Mapping[str, Any]) -> str:
    """Return how far a score went, with its sign; accuracies in points of a hundred."""
    before, after = scores.get("before"), scores.get("after")
    if before is None or after is None or not (known(before) and known(after)):
        return UNKNOWN
    if scores["measure"] == "accuracy":
        return f"{100 * (after - before):+.1f} points".replace("-", "\N{MINUS SIGN}")
    return f"{after - before:+.3f}".replace("-", "\N{MINUS SIGN}")
