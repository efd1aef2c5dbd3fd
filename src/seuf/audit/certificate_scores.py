"""How well it was forgotten: no word of it says more than the questions and their errors do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seuf.audit.certificate_numbers import (
    bounds,
    difference,
    known,
    said,
    score,
    with_interval,
)
from seuf.audit.certificate_page import MEASURES, ROUGE

Scores = Mapping[str, Any]

SUBJECTS = {"forget": "what was to be forgotten", "retain": "everything else"}
HEAD = ["questions about", "number", "before", "after", "change"]


def forgotten(scores: Scores | None) -> tuple[list[str], list[list[str]]]:
    """Return sentences and a table; of missing scores, that nothing is known."""
    there = [name for name in SUBJECTS if (scores or {}).get(name)]
    if not scores or not there:
        return ["No scores are attached: how well it was forgotten is not known."], []
    rows = [_row(SUBJECTS[name], scores[name]) for name in there]
    sentences = [_measured(scores, there), _errors([scores[name] for name in there])]
    if "forget" in there:
        sentences += [_lower(scores["forget"]), _guessing(scores)]
    if "retain" in there:
        sentences.append(_lost(scores["retain"]))
    told = [*sentences[2:], _routing(scores.get("routing_overlap") or {})]
    return [" ".join(filter(None, part)) for part in (sentences[:2], told)], [HEAD, *rows]


def _row(subject: str, one: Scores) -> list[str]:
    pair = [with_interval(one, moment) for moment in ("before", "after")]
    return [subject, said(one.get("questions")), *pair, difference(one)]


def _measured(scores: Scores, there: list[str]) -> str:
    measures = dict.fromkeys(MEASURES.get(scores[n]["measure"], ROUGE) for n in there)
    return (
        f"Measured: {' and '.join(measures)}. In brackets the 95% interval (1.96 standard "
        "errors to each side, within 0 and 1), over these questions and this one run."
    )


def _errors(subjects: list[Scores]) -> str:
    errors = [one.get(f"{moment}_error") for one in subjects for moment in ("before", "after")]
    if 0 not in errors:
        return ""
    return "An interval without width means that all answers scored alike, not that it is certain."


def _lower(forget: Scores) -> str:
    before, after = bounds(forget, "before"), bounds(forget, "after")
    if before is None or after is None:
        return "Without both intervals a change may be chance."
    if after[1] < before[0]:
        return (
            "The interval after lies below that before: the drop is more than such errors explain."
        )
    return (
        "The interval after does not lie below that before: these questions do not show that "
        "anything was forgotten."
    )


def _guessing(scores: Scores) -> str:
    forget, chance = scores["forget"], scores.get("chance")
    between = bounds(forget, "after")
    if not chance or not known(chance):
        return "There is no score to expect from guessing."
    guessing = f"Guessing would give {score(chance, forget['measure'])}"
    if between is None:
        return f"{guessing}."
    if between[0] > chance:
        return f"{guessing}: some of what was to be forgotten is still answered."
    if between[1] < chance:
        return f"{guessing}: less than that means that right answers are avoided."
    return f"{guessing}, which lies in the interval after."


def _lost(retain: Scores) -> str:
    change = difference(retain)
    before, after = (score(retain.get(key), retain["measure"]) for key in ("before", "after"))
    return f"Everything else went from {before} to {after} ({change})."


def _routing(overlap: Mapping[str, float | None]) -> str:
    """Return how far the router still chooses as before, which is no sign of forgetting."""
    forget, retain = (score(overlap.get(name), "accuracy") for name in SUBJECTS)
    if not any(known(overlap.get(name)) for name in SUBJECTS):
        return ""
    return (
        f"Of the experts that the model calls on, {forget} are the same as before on what was to "
        f"be forgotten, {retain} on everything else."
    )
