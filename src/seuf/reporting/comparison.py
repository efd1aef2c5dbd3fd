"""Compare methods: the numbers of each, as one table for tools and one for people.

Begin with `compare` and `comparison_table`. `markdown` is what `kedro show` prints; the report has
the same cells as HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

Metrics = dict[str, dict[str, float]]
Row = dict[str, Any]

MISSING = "-"
STDERR = "_stderr"
COLUMNS = [
    "forget_efficacy",
    "forget_efficacy_stderr",
    "utility",
    "utility_stderr",
    "chance",
    "balance",
    "routing_overlap_forget",
    "routing_overlap_retain",
    "trained_share",
    "changed_share",
    "changed_tensors",
    "seconds",
]
# Columns that say what forget efficacy and utility are measured by, and on which questions.
MEASURED_BY = {"forget_measure": "forget", "utility_measure": "retain"}
# The column that groups methods which differ in a random draw alone.
DRAWS_OF = "draws_of"

# How people read each column that has no standard error: its header, and the numbers' format.
READABLE = {
    "balance": ("balance ↑", ".3f"),
    "routing_overlap_forget": ("overlap forget", ".3f"),
    "routing_overlap_retain": ("overlap retain", ".3f"),
    "trained_share": ("weights trained", ".2%"),
    "seconds": ("seconds", ".1f"),
}
MEASURES = {
    "accuracy": "accuracy",
    "rouge_l_recall": "ROUGE-L",
    "rouge_l_recall_pltrdy": "ROUGE-L",
    "rouge_l_f1": "ROUGE-L F1",
}
ARROWS = {"forget": " ↓", "retain": " ↑"}
HEADERS = {
    "truth_ratio_forget": "truth ratio forget ↑",
    "forget_quality": "forget quality ↑",
    "model_utility": "model utility ↑",
    "auc_min_k": "membership AUC",
    "auc_min_k_retain": "membership AUC beside retain",
    "privleak": "PrivLeak %",
    "macro_forget": "forget accuracy by topic ↓",
    "macro_retain": "retain accuracy by topic ↑",
}


def compare(
    scores: Mapping[str, Mapping[str, Any]],
    logs: Mapping[str, pd.DataFrame],
    timings: Mapping[str, Mapping[str, float]],
) -> Metrics:
    """Return the measured numbers of each method, in the order of `scores`.

    Args:
        scores: What the evaluation of each method gave.
        logs: The training log of each method; they tell the chance level.
        timings: The seconds each method took; one that was not trained here has none.

    Returns:
        For each method its numbers by the names in `COLUMNS`, then by those in the `measures` of
        its scores. A number that was not measured is left out.
    """
    chance, metrics = study_chance(logs), {}
    for method, scored in scores.items():
        forget, retain = (scored["headline"][subject] for subject in ("forget", "retain"))
        overlap, balance = scored.get("routing_overlap", {}), None
        if chance is not None:  # as checkpoints are chosen, but on the test questions
            balance = retain["value"] - max(forget["value"] - chance, 0.0)
        numbers = {
            "forget_efficacy": forget["value"],
            "forget_efficacy_stderr": forget["standard_error"],
            "utility": retain["value"],
            "utility_stderr": retain["standard_error"],
            "chance": chance,
            "balance": balance,
            "routing_overlap_forget": overlap.get("forget"),
            "routing_overlap_retain": overlap.get("retain"),
            "trained_share": scored.get("trained_share"),
            "changed_share": scored.get("changed_share"),
            "changed_tensors": scored.get("changed_tensors"),
            **timings.get(method, {}),
        }
        for name, measured in scored.get("measures", {}).items():
            numbers[name] = measured["value"]
            numbers[f"{name}{STDERR}"] = measured["standard_error"]
        metrics[method] = {
            name: value
            for name, value in numbers.items()
            if isinstance(value, int | float) and not pd.isna(value)  # the harness says 'N/A' too
        }
    return metrics


def comparison_table(metrics: Metrics, scores: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return the metrics as a table: `method`, then `COLUMNS`, then all that was measured beside.

    Args:
        metrics: By method, see `compare`.
        scores: What the evaluation of each method gave; tells what forget efficacy and utility are
            measured by, by default accuracy.
    """
    names = dict.fromkeys(name for numbers in metrics.values() for name in numbers)
    columns = COLUMNS + [name for name in names if name not in COLUMNS]
    table = pd.DataFrame.from_dict(metrics, orient="index").reindex(columns=columns)
    first: Mapping[str, Any] = next(iter((scores or {}).values()), {"headline": {}})
    for column, subject in MEASURED_BY.items():  # the same for all methods
        table[column] = first["headline"].get(subject, {}).get("measure", "accuracy")
    if draws := random_draws(scores or {}):
        table[DRAWS_OF] = pd.Series(draws)
    return table.rename_axis("method").reset_index()


def study_chance(logs: Mapping[str, pd.DataFrame]) -> float | None:
    """Return the accuracy of guessing on the forget questions; none if no method was trained."""
    for log in logs.values():
        for chance in log["chance"].dropna():
            return float(chance)
    return None


def by_method(comparison: pd.DataFrame) -> dict[str, Row]:
    """Return the rows of the comparison by the method's name, in their order."""
    records = comparison.to_dict(orient="records")
    return {str(row["method"]): {str(key): row[key] for key in row} for row in records}


def original_method(comparison: pd.DataFrame) -> str | None:
    """Return the first method that trained nothing: the original model."""
    return next((m for m, row in by_method(comparison).items() if row["trained_share"] == 0), None)


def best_method(comparison: pd.DataFrame) -> str | None:
    """Return the method with the best balance among those that changed something."""
    judged = comparison[comparison["changed_tensors"] > 0].dropna(subset=["balance"])
    balances = {method: row["balance"] for method, row in by_method(judged).items()}
    return max(balances, key=lambda method: balances[method], default=None)


def random_draws(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return, of methods that differ in their random expert alone, the first one's name.

    Args:
        scores: Of each method, with the `method` it is.
    """
    groups: dict[str, list[str]] = {}
    for name, scored in scores.items():
        method = dict(scored.get("method") or {})
        if re.fullmatch(r"random(_\d+)?", str(method.pop("selection", None))):
            groups.setdefault(json.dumps(method, sort_keys=True), []).append(name)
    return {name: names[0] for names in groups.values() if len(names) > 1 for name in names}


def spread_over_draws(comparison: pd.DataFrame) -> list[str]:
    """Return a sentence for each group of random draws, with mean and standard deviation."""
    if DRAWS_OF not in comparison:
        return []
    forget, retain = measure(comparison, "forget"), measure(comparison, "utility")
    return [
        f"Over {len(rows)} random experts ({', '.join(rows['method'])}): forget {forget} "
        f"{_mean_and_deviation(rows['forget_efficacy'])}, retain {retain} "
        f"{_mean_and_deviation(rows['utility'])} (mean ± standard deviation)."
        for _, rows in comparison.groupby(DRAWS_OF, sort=False)
    ]


def _mean_and_deviation(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def measure(comparison: pd.DataFrame, what: str) -> str:
    """Return what `forget` or `utility` is measured by; a new measure goes by its own name."""
    name = str(comparison[f"{what}_measure"].iloc[0])
    return MEASURES.get(name, name.replace("_", " "))


def header(name: str) -> str:
    """Return what a further measure is called: `rouge_forget_fill_blank`, for example."""
    if name in HEADERS:
        return HEADERS[name]
    first, _, rest = name.partition("_")
    if first != "rouge":
        return name.replace("_", " ")
    subject, _, kind = rest.partition("_")
    what = f", {kind.replace('_', ' ')}" if kind else ""
    return f"ROUGE-L {subject}{what}{ARROWS.get(subject, '')}"


def number(value: float | None, form: str) -> str:
    """Return the formatted number; a dash where there is none."""
    return MISSING if value is None or pd.isna(value) else format(value, form)


def readable(comparison: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the headers and, for each method, its cells as text."""
    known = {"method", DRAWS_OF, *COLUMNS, *MEASURED_BY}
    names = [str(name) for name in comparison.columns if name not in known]
    columns = {
        "forget_efficacy": (f"forget {measure(comparison, 'forget')} ↓", ".3f"),
        "utility": (f"retain {measure(comparison, 'utility')} ↑", ".3f"),
        **READABLE,
        **{name: (header(name), ".3f") for name in names if not name.endswith(STDERR)},
    }
    rows = [
        [method, *(_cell(row, name, form) for name, (_, form) in columns.items())]
        for method, row in by_method(comparison).items()
    ]
    return ["method", *(title for title, _ in columns.values())], rows


def _cell(row: Row, name: str, form: str) -> str:
    error = row.get(f"{name}{STDERR}")
    spread = "" if error is None or pd.isna(error) else f" ± {error:.3f}"
    return number(row[name], form) + spread


def markdown(comparison: pd.DataFrame) -> str:
    """Return the comparison as a GitHub table whose source lines up too."""
    headers, rows = readable(comparison)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [headers, *rows]]
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [":" + "-" * (first - 1), *("-" * (width - 1) + ":" for width in others)]
    lines = []
    for row in (cells[0], rule, *cells[1:]):
        padded = [cell.rjust(width) for cell, width in zip(row[1:], others, strict=True)]
        lines.append(f"| {' | '.join([row[0].ljust(first), *padded])} |")
    below = [f"\n{sentence}" for sentence in spread_over_draws(comparison)]
    return "\n".join([*lines, *below]) + "\n"
