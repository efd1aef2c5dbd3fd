"""The headline of a report: what one expert keeps against everything, at equal forgetting.

`differences` reads it off the paths, `headline` says it in a sentence for each rule and as a table
for each share forgotten. No row is called the best: a rule is compared with everything for every
objective, whatever comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import mean
from typing import NamedTuple

import pandas as pd

from seuf.forgetting import TARGETS
from seuf.reporting.comparison import MISSING, at_equal_forgetting
from seuf.reporting.page import bullets, note, row, table
from seuf.reporting.styles import EVERYTHING, Style, method_styles, objective_name, with_objective

SHOWN_TARGETS = TARGETS[1:]
RULES = {
    "affinity": "affinity, the paper's rule",
    "contrast": "contrast, affinity less that on the retain set",
    "pilot": "pilot, the layer chosen by trial",
}
VERDICTS = (
    MORE := "more with",
    LESS := "less with",
    UNCLEAR := "no clear difference with",
    NOT_REACHED := "not reached with",
    ALONE := "reached by one expert alone with",
)


class Difference(NamedTuple):
    """Utility at equal forgetting: one method beside everything, both with its objective.

    Attributes:
        style: The method's.
        is_one_expert: Whether it trains a single expert, which no random draw chose.
        target: The share forgotten.
        value: Its utility there, the mean over runs that reach it; None if fewer than half do.
        reached: How many runs reach it, of how many.
        difference: The value minus that of everything; None where a run of one of them does not
            reach it, unless the study tells.
        interval: In which the difference lies, 95 %; None if the study does not tell.
    """

    style: Style
    is_one_expert: bool
    target: float
    value: float | None
    reached: tuple[int, int]
    difference: float | None = None
    interval: tuple[float, float] | None = None


# Differences to everything by method and target, each with the ends of its interval
Intervals = Mapping[tuple[str, float], tuple[float, float, float]]


def differences(paths: pd.DataFrame, intervals: Intervals | None = None) -> list[Difference]:
    """Return utility at equal forgetting of every method, beside that of everything.

    Args:
        paths: See `seuf.reporting.comparison.ABOUT_RUN`.
        intervals: What the study says of differences; by default the plain ones, where all runs
            reach the target.
    """
    paths = with_objective(paths)
    chosen = paths[paths["chosen"].eq(True)].dropna(subset=["test_forgotten", "objective"])
    styles, found = method_styles(paths), dict[str, list[dict[str, float | None]]]()
    for (method, *_), path in chosen.groupby(["method", "base", "seed"], sort=False):
        found.setdefault(str(method), []).append(at_equal_forgetting(path.sort_values("step")))
    experts = chosen.groupby("method")["experts"].first()
    everything = {styles[m].objective: m for m in found if styles[m].label == EVERYTHING}

    def reaching(method: str, target: float) -> list[float]:
        values = (numbers[f"utility_at_{target * 100:.0f}"] for numbers in found[method])
        return [value for value in values if value is not None]

    told = []
    for method, runs in found.items():
        style, other = styles[method], everything.get(styles[method].objective)
        single = len(str(experts[method] or "  ").split(" ")) == 1
        for target in TARGETS:
            values = reaching(method, target)
            others = reaching(other, target) if other not in (None, method) else []
            difference, *interval = (intervals or {}).get((method, target), (None,))
            if difference is None and others and len(values) == len(runs) == len(others):
                difference = mean(values) - mean(others)
            told.append(
                Difference(
                    style,
                    single and not style.label.startswith("random"),
                    target,
                    mean(values) if 2 * len(values) >= len(runs) else None,
                    (len(values), len(runs)),
                    difference,
                    (interval[0], interval[1]) if interval else None,
                )
            )
    return told


def headline(paths: pd.DataFrame, intervals: Intervals | None = None) -> str:
    """Return what one expert does against everything at equal forgetting, and a table a target."""
    found = differences(paths, intervals)
    if not found:
        return '<p class="lead">No method changed the model: there is nothing to compare.</p>'
    tables = "".join(
        f"<div><h3>Utility where {_share(target)} is forgotten</h3>{_matrix(found, target)}</div>"
        for target in SHOWN_TARGETS
    )
    below = "Below a value its difference to everything with the same objective"
    below += "; in colour where its 95 % interval leaves out 0." if intervals else "."
    lead = (
        "What training one expert keeps against training everything, where "
        f"{_share(SHOWN_TARGETS[0])} of the way from the original to guessing is forgotten:"
    )
    told = sentences(found)
    if not told:
        lead, told = "No method of this study trains one expert.", []
    return (
        f'<p class="lead">{lead}</p>{bullets(told)}'
        f'<div class="side-by-side">{tables}</div>{note([below])}'
    )


def sentences(found: Sequence[Difference], target: float = SHOWN_TARGETS[0]) -> list[str]:
    """Return a sentence for each rule that chose one expert: with which objective it keeps more."""
    rows = [one for one in found if one.is_one_expert and one.target == target]
    lines = []
    for rule in dict.fromkeys(one.style.label for one in rows):
        of_rule = [one for one in rows if one.style.label == rule]
        by_verdict: dict[str, list[Difference]] = {verdict: [] for verdict in VERDICTS}
        for one in of_rule:
            by_verdict[_verdict(one)].append(one)
        parts = [
            f"{verdict} {', '.join(map(_named, several))}"
            for verdict, several in by_verdict.items()
            if several
        ]
        lines.append(f"{RULES.get(rule, rule)}: {'; '.join(parts)}.")
    return lines


def _verdict(one: Difference) -> str:
    if one.value is None:
        return NOT_REACHED
    if one.difference is None:
        return ALONE
    if one.difference == 0 or not _is_clear(one):
        return UNCLEAR
    return MORE if one.difference > 0 else LESS


def _is_clear(one: Difference) -> bool:
    """Return whether a difference is known not to be 0, or nothing is known of that."""
    return one.interval is None or one.interval[0] > 0 or one.interval[1] < 0


def _named(one: Difference) -> str:
    name = objective_name(one.style.objective)
    return name if one.difference is None else f"{name} ({_signed(one.difference)})"


def _signed(difference: float) -> str:
    return f"{difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def _share(target: float) -> str:
    return f"{target:.2g}".lstrip("0")


def _matrix(found: Sequence[Difference], target: float) -> str:
    """Return utility at a target: a row an objective, a column for everything and for each rule."""
    here = [one for one in found if one.target == target]
    labels = sorted({one.style.label: None for one in here}, key=lambda name: name != EVERYTHING)
    rows = []
    for objective in dict.fromkeys(one.style.objective for one in here):
        cells = {one.style.label: one for one in here if one.style.objective == objective}
        shown = [_matrix_cell(cells[name]) if name in cells else "" for name in labels]
        rows.append(row([escape(objective_name(objective)), *shown]))
    return table(["", *labels], rows)


def _matrix_cell(one: Difference) -> str:
    reached, runs = one.reached
    count = f"<br><small>{reached} of {runs} runs</small>" if reached < runs and runs > 1 else ""
    if one.value is None:
        return MISSING + count
    shown = f"{one.value:.2f}{count}"
    if one.difference is None:
        return shown
    kind = ""
    if one.interval is not None and _is_clear(one):
        kind = ' class="more"' if one.difference > 0 else ' class="less"'
    return f"{shown}<br><small{kind}>{_signed(one.difference)}</small>"
