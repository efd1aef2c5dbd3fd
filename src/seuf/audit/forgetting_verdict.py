"""Judge by the scores, their intervals and a request's thresholds whether enough was forgotten.

This is an audit's second verdict, independent of the integrity that the checks prove.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from seuf.audit.audited import AuditedMethod

NORMAL = 1.96  # standard errors on each side of a 95 % interval
REACHED, NOT_SHOWN, NOT_REACHED, NOT_JUDGED = "REACHED", "NOT SHOWN", "NOT REACHED", "NOT JUDGED"
WORST_LAST = (REACHED, NOT_SHOWN, NOT_REACHED)
# thresholds that a request may declare, and the scores that they bound
AT_MOST, AT_LEAST = "forget_at_most", "utility_at_least"
THRESHOLDS = {AT_MOST: "forget", AT_LEAST: "retain"}
# columns of the comparison table: the score's, and the prefix of those that describe it
COLUMNS = {"forget": ("forget_efficacy", "forget"), "retain": ("utility", "utility")}
Score = Mapping[str, Any]


def forgetting(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict on the request's thresholds, and its text.

    With several thresholds the worst verdict counts.
    """
    request, scores = report.get("request") or {}, report.get("scores") or {}
    judgements = [
        _judge(name, request[name], scores.get(part) or {})
        for name, part in THRESHOLDS.items()
        if request.get(name) is not None
    ]
    if not judgements:
        why = "no threshold was declared" if request else "no request declares what is enough"
        return {"verdict": NOT_JUDGED, "text": why}
    verdicts, texts = zip(*judgements, strict=True)
    return {"verdict": max(verdicts, key=WORST_LAST.index), "text": "; ".join(texts)}


def _judge(name: str, threshold: float, score: Score) -> tuple[str, str]:
    """Return the verdict on one threshold, and its text.

    It is reached if the whole 95 % interval satisfies it. If the base model already satisfied a
    bound on forgetting, nothing is shown.
    """
    value, before, bounds = score.get("after"), score.get("before"), interval(score, "after")

    def satisfies(number: float) -> bool:
        return number <= threshold if name == AT_MOST else number >= threshold

    satisfied_before = name == AT_MOST and known(before) and satisfies(before)
    if not known(value) or not satisfies(value):
        verdict = NOT_REACHED
    elif satisfied_before or bounds is None or not all(map(satisfies, bounds)):
        verdict = NOT_SHOWN
    else:
        verdict = REACHED
    text = f"{name.replace('_', ' ')} {threshold:g} was declared: "
    text += f"{value:.3f}" if known(value) else "not measured"
    if bounds is not None:
        text += f" ({bounds[0]:.3f} to {bounds[1]:.3f})"
    return verdict, f"{text}, and {before:.3f} before" if satisfied_before else text


def interval(score: Score, moment: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a score `before` or `after`: 1.96 errors, clipped to [0, 1]."""
    value, error = score.get(moment), score.get(f"{moment}_error")
    if not (known(value) and known(error)):
        return None
    return max(0.0, value - NORMAL * error), min(1.0, value + NORMAL * error)


def known(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    return value is not None and math.isfinite(value)


def scores_of(audited: AuditedMethod) -> dict[str, Any]:
    """Return the method's scores beside the original's; an empty dict if they cannot be read."""
    import pandas as pd

    from seuf.reporting.comparison import by_method, original_method

    try:
        table = pd.read_csv(audited.project / audited.path("comparison"))
        rows, scores = by_method(table), audited.read("scores")
        after, original = rows[audited.method], original_method(table)
        before = rows[original] if original else {}
        parts = {
            part: {
                "before": _number(before.get(name)),
                "before_error": _number(before.get(f"{name}_stderr")),
                "after": _number(after.get(name)),
                "after_error": _number(after.get(f"{name}_stderr")),
                "measure": after[f"{prefix}_measure"],
                "questions": _questions(scores, part, after[f"{prefix}_measure"]),
            }
            for part, (name, prefix) in COLUMNS.items()
        }
        overlap = {part: _number(after[f"routing_overlap_{part}"]) for part in COLUMNS}
        return {**parts, "chance": _number(after["chance"]), "routing_overlap": overlap}
    except Exception:  # a forged file can fail in any way; then the check `scores` has failed
        return {}


def _number(value: Any) -> float | None:
    return float(value) if known(value) else None  # JSON has no NaN


def _questions(scores: dict[str, Any], part: str, measure: str) -> int:
    """Return the number of questions behind a score in the comparison table."""
    from seuf.benchmarks.records import utility_subject

    subject = part if part == "forget" else utility_subject(scores["headline"])
    for measured in ("questions", "produced"):
        scored = scores.get(measured, {}).get(subject, {})
        if scored and scored.get("measure", "accuracy") == measure:
            return int(scored["questions"])
    return sum(kind["questions"] for kind in scores.get("generation", {}).get(subject, {}).values())
