"""The headline of a report: training one expert against training everything, at equal forgetting.

`differences` reads the numbers off the paths; `headline` writes a sentence for each rule and a
table for each share forgotten. No row is called the best: each rule is compared with training
everything under each objective, whatever the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from statistics import mean
from typing import NamedTuple

import numpy as np
import pandas as pd

from seuf.forgetting import TARGETS
from seuf.reporting.comparison import MISSING, at_equal_forgetting
from seuf.reporting.page import bullets, note, row, table
from seuf.reporting.spread import answers_of
from seuf.reporting.statistics import Paths, RunKey
from seuf.reporting.styles import (
    EVERYTHING,
    Style,
    method_styles,
    objective_name,
    share_name,
    with_objective,
)

SHOWN_TARGETS = TARGETS[1:]
CLEAR = {  # by whether there are several runs
    False: "its 95 % interval over questions leaves out 0; another base model may differ more",
    True: "the study's verdict says so, or where there is none the 95 % interval leaves out 0",
}
RULES = {
    "affinity": "affinity, the paper's rule",
    "contrast": "contrast, affinity less that on the retain set",
    "pilot": "pilot, the layer chosen by trial",
}
VERDICTS = (
    MORE := "more with",
    LESS := "less with",
    UNCLEAR := "no clear difference with",
    UNTESTED := "not among the comparisons stated beforehand with",
    NOT_REACHED := "not reached with",
    ALONE := "reached by one expert alone with",
)


class Difference(NamedTuple):
    """Utility of a method at equal forgetting, and its difference to training everything.

    Attributes:
        style: The method's.
        is_one_expert: Whether it trains a single expert, which no random draw chose.
        target: The share forgotten.
        value: Mean utility there over the runs that reach it; None if fewer than half do.
        reached: Number of runs that reach it, and number of runs.
        difference: `value` minus that of training everything with the same objective. None where a
            run of either does not reach the target and the study gives no tested difference.
        is_clear: Whether the difference is more than chance; None if it was not tested.
    """

    style: Style
    is_one_expert: bool
    target: float
    value: float | None
    reached: tuple[int, int]
    difference: float | None = None
    is_clear: bool | None = None


# By method and target: the difference to training everything, and whether it is more than chance.
TestedDifferences = Mapping[tuple[str, float], tuple[float, bool]]


def differences(paths: pd.DataFrame, tested: TestedDifferences | None = None) -> list[Difference]:
    """Return each method's utility at each target, compared with training everything.

    Args:
        paths: See `seuf.reporting.comparison.ABOUT_RUN`.
        tested: Differences that the study tested. Where there is none, the difference of the means
            is taken if all runs reach the target.
    """
    chosen = _runs_of(paths)
    styles, found = method_styles(paths), dict[str, list[dict[str, float | None]]]()
    for (method, *_), path in chosen.groupby(["method", "base", "seed"], sort=False):
        found.setdefault(str(method), []).append(at_equal_forgetting(path.sort_values("step")))
    experts = chosen.groupby("method")["experts"].first()
    everything = everything_beside(paths)

    def utilities_at(method: str, target: float) -> list[float]:
        values = (numbers[f"utility_at_{target * 100:.0f}"] for numbers in found[method])
        return [value for value in values if value is not None]

    compared = []
    for method, runs in found.items():
        style, other = styles[method], everything.get(method)
        is_single = re.fullmatch(r"\d+:\d+", str(experts[method])) is not None
        for target in TARGETS:
            values = utilities_at(method, target)
            others = utilities_at(other, target) if other in found else []
            difference, is_clear = (tested or {}).get((method, target), (None, None))
            if difference is None and others and len(values) == len(runs) == len(others):
                difference = mean(values) - mean(others)
            compared.append(
                Difference(
                    style,
                    is_single and not style.label.startswith("random"),
                    target,
                    mean(values) if 2 * len(values) >= len(runs) else None,
                    (len(values), len(runs)),
                    difference,
                    is_clear,
                )
            )
    return compared


def differences_over_questions(paths: pd.DataFrame) -> TestedDifferences:
    """Return the differences of a study with one run a method, tested by resampling questions.

    All methods share the samples; a difference is clear if its middle 95 % leave out 0. Empty where
    the paths do not record which questions were answered rightly.
    """
    chosen = _runs_of(paths)
    rights = ["test_forget_right", "test_utility_right"]
    if chosen.empty or chosen[rights].isna().any(axis=None):
        return {}
    runs = {
        RunKey(str(method), "", 0): answers_of(path) for method, path in chosen.groupby("method")
    }
    read, tested = Paths.of(runs, TARGETS), dict[tuple[str, float], tuple[float, bool]]()
    for method, other in everything_beside(paths).items():
        m, n = (read.methods.index(name) for name in (method, other))
        measured = read.measured[m, 0, 0] - read.measured[n, 0, 0]
        resampled = read.resampled[m, 0, 0] - read.resampled[n, 0, 0]
        for target, difference, samples in zip(TARGETS, measured, resampled, strict=True):
            if not np.isnan(difference):
                low, high = np.nanpercentile(samples, [2.5, 97.5])
                tested[method, target] = (float(difference), bool(low > 0 or high < 0))
    return tested


def differences_over_bases(comparisons: pd.DataFrame, paths: pd.DataFrame) -> TestedDifferences:
    """Return the differences to training everything that a study of spread has compared.

    One is clear by the study's verdict where there is one, else if its interval leaves out 0.
    """
    everything, tested = everything_beside(paths), dict[tuple[str, float], tuple[float, bool]]()
    for pair in comparisons.to_dict(orient="records"):
        if everything.get(pair["method"]) == pair["against"] and pd.notna(pair["difference"]):
            is_clear = pair["low"] > 0 or pair["high"] < 0
            if isinstance(pair["verdict"], str):
                is_clear = pair["verdict"] in ("wins", "loses")
            tested[pair["method"], pair["forgotten"]] = (pair["difference"], bool(is_clear))
    return tested


def everything_beside(paths: pd.DataFrame) -> dict[str, str]:
    """Return, for each method, the one that trains everything with the same objective."""
    styles = method_styles(paths)
    everything = {style.objective: m for m, style in styles.items() if style.label == EVERYTHING}
    return {
        method: everything[style.objective]
        for method, style in styles.items()
        if everything.get(style.objective, method) != method
    }


def headline(paths: pd.DataFrame, tested: TestedDifferences | None = None) -> str:
    """Return the headline as HTML: a sentence for each rule, and a table for each target."""
    found = differences(paths, tested)
    if not found:
        return '<p class="lead">No method changed the model: there is nothing to compare.</p>'
    tables = "".join(
        f"<div><h3>Utility where {share_name(target)} is forgotten</h3>"
        f"{_matrix(found, target)}</div>"
        for target in SHOWN_TARGETS
    )
    below = "Below a value its difference to everything with the same objective"
    if not tested:
        below += ". Whether that is more than chance is not known."
    else:
        several = len(paths[["base", "seed"]].drop_duplicates()) > 1
        below += f"; in colour where {CLEAR[several]}."
    lead = (
        "What training one expert keeps against training everything, where "
        f"{share_name(SHOWN_TARGETS[0])} of the way from the original to guessing is forgotten:"
    )
    lines = sentences(found)
    if not lines:
        lead = "No method of this study trains one expert."
    return (
        f'<p class="lead">{lead}</p>{bullets(lines)}'
        f'<div class="side-by-side">{tables}</div>{note([below])}'
    )


def sentences(found: Sequence[Difference], target: float = SHOWN_TARGETS[0]) -> list[str]:
    """Return, for each rule that chose one expert, with which objectives it keeps more or less."""
    rows = [one for one in found if one.is_one_expert and one.target == target]
    any_tested = any(one.is_clear is not None for one in found)
    lines = []
    for rule in dict.fromkeys(one.style.label for one in rows):
        of_rule = [one for one in rows if one.style.label == rule]
        by_verdict: dict[str, list[Difference]] = {verdict: [] for verdict in VERDICTS}
        for one in of_rule:
            by_verdict[_verdict(one, any_tested)].append(one)
        parts = [
            f"{verdict} {', '.join(map(_named, several))}"
            for verdict, several in by_verdict.items()
            if several
        ]
        lines.append(f"{RULES.get(rule, rule)}: {'; '.join(parts)}.")
    return lines


def _verdict(one: Difference, any_tested: bool) -> str:
    if one.value is None:
        return NOT_REACHED
    if one.difference is None:
        return ALONE
    if one.difference == 0 or one.is_clear is False:
        return UNCLEAR
    if any_tested and one.is_clear is None:
        return UNTESTED
    return MORE if one.difference > 0 else LESS


def _named(one: Difference) -> str:
    name = objective_name(one.style.objective)
    return name if one.difference is None else f"{name} ({_signed(one.difference)})"


def _signed(difference: float) -> str:
    return f"{difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def _matrix(found: Sequence[Difference], target: float) -> str:
    """Return utility at a target as an HTML table: a row for each label, a column an objective."""
    here = {(one.style.label, one.style.objective): one for one in found if one.target == target}
    first = [EVERYTHING, *RULES]  # then the others, in the order of the study
    labels = sorted(
        {label: None for label, _ in here},
        key=lambda name: first.index(name) if name in first else len(first),
    )
    objectives = list(dict.fromkeys(objective for _, objective in here))
    rows = []
    for label in labels:
        cells = [here.get((label, objective)) for objective in objectives]
        rows.append(row([escape(label), *(_matrix_cell(one) if one else "" for one in cells)]))
    return table(["", *map(objective_name, objectives)], rows)


def _matrix_cell(one: Difference) -> str:
    reached, runs = one.reached
    count = f"<br><small>{reached}/{runs} runs</small>" if reached < runs and runs > 1 else ""
    if one.value is None:
        return MISSING + count
    shown = f"{one.value:.2f}{count}"
    if one.difference is None:
        return shown
    kind = ""
    if one.is_clear:
        kind = ' class="more"' if one.difference > 0 else ' class="less"'
    return f"{shown}<br><small{kind}>{_signed(one.difference)}</small>"


def _runs_of(paths: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluated rows of the chosen learning rates."""
    paths = with_objective(paths)
    return paths[paths["chosen"].eq(True)].dropna(subset=["test_forgotten", "objective"])
