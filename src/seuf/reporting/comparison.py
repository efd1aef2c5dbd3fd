"""What the numbers are called, in tables, figures and sentences.

Methods that differ in a random draw alone: their mean and spread.

One row a method: how much is forgotten, what is left, and what it took.

The comparison as people read it; Markdown here, HTML in `report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pandas as pd

MEASURES = {
    "accuracy": "accuracy",
    "rouge_l_recall": "ROUGE-L",
    "rouge_l_recall_pltrdy": "ROUGE-L",
    "rouge_l_f1": "ROUGE-L F1",
}
ARROWS = {"forget": "↓", "retain": "↑"}
NAMES = {
    "truth_ratio_forget": "truth ratio forget ↑",
    "forget_quality": "forget quality ↑",
    "model_utility": "model utility ↑",
    "auc_min_k": "membership AUC",
    "auc_min_k_retain": "membership AUC beside retain",
    "privleak": "PrivLeak %",
    "macro_forget": "forget accuracy by topic ↓",
    "macro_retain": "retain accuracy by topic ↑",
}


def headers(comparison: pd.DataFrame) -> tuple[str, str]:
    """Return what a study's forget efficacy and utility are called."""
    return f"forget {measure(comparison, 'forget')} ↓", f"retain {measure(comparison, 'utility')} ↑"


def measure(comparison: pd.DataFrame, what: str) -> str:
    """Return what `forget` or `utility` is measured by."""
    name = str(comparison[f"{what}_measure"].iloc[0])
    return MEASURES.get(name, name.replace("_", " "))


def header(name: str) -> str:
    """Return what a further measure is called: `rouge_forget_fill_blank`, for example."""
    if name in NAMES:
        return NAMES[name]
    first, _, rest = name.partition("_")
    if first != "rouge":
        return name.replace("_", " ")
    subject, _, kind = rest.partition("_")
    what = f"ROUGE-L {subject}" + (f", {kind.replace('_', ' ')}" if kind else "")
    return f"{what} {ARROWS.get(subject, '')}".rstrip()


DRAWS_OF = "draws_of"
RANDOM = "random"


def draws_of(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return, of methods that differ in their random expert alone, the first one's name.

    Args:
        scores: Of each method, with the `method` it is.
    """
    alike: dict[str, list[str]] = {}
    for name, scored in scores.items():
        method = dict(scored.get("method") or {})
        if str(method.pop("selection", None)).partition("_")[0] == RANDOM:
            alike.setdefault(json.dumps(method, sort_keys=True), []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    return {name: names[0] for names in groups for name in names}


def spread_over_draws(comparison: pd.DataFrame) -> list[str]:
    """Return a sentence for each group of draws, with mean and standard deviation over them."""
    if DRAWS_OF not in comparison:
        return []
    forget, retain = measure(comparison, "forget"), measure(comparison, "utility")
    return [
        f"Over {len(rows)} random experts ({', '.join(rows['method'])}): forget {forget} "
        f"{_spread(rows['forget_efficacy'])}, retain {retain} {_spread(rows['utility'])} "
        "(mean ± standard deviation)."
        for _, rows in comparison.groupby(DRAWS_OF, sort=False)
    ]


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


Metrics = dict[str, dict[str, float]]

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
STDERR = "_stderr"
KIND = {"forget_measure": "forget", "utility_measure": "retain"}


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
    chance = study_chance(logs)
    return {
        method: _known(
            {**_numbers(scored), **_judged(scored, chance), **timings.get(method, {})}
            | _further(scored.get("measures", {}))
        )
        for method, scored in scores.items()
    }


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
    for column, subject in KIND.items():
        table[column] = _measure(scores or {}, subject)
    if draws := draws_of(scores or {}):
        table[DRAWS_OF] = pd.Series(draws)
    return table.rename_axis("method").reset_index()


def further(comparison: pd.DataFrame) -> list[str]:
    """Return what was measured beside forget efficacy, utility and routing."""
    known = {"method", DRAWS_OF, *COLUMNS, *KIND}
    names = map(str, comparison.columns)
    return [name for name in names if name not in known and not name.endswith(STDERR)]


def study_chance(logs: Mapping[str, pd.DataFrame]) -> float | None:
    """Return the accuracy of guessing on the forget questions; none if no method was trained."""
    for log in logs.values():
        for chance in log["chance"].dropna():
            return float(chance)
    return None


def by_method(comparison: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the rows of the comparison by the method's name, in their order."""
    records = comparison.to_dict(orient="records")
    return {str(row["method"]): {str(key): row[key] for key in row} for row in records}


def original_method(comparison: pd.DataFrame) -> str | None:
    """Return the first method that trained nothing: the original model."""
    return next((m for m, row in by_method(comparison).items() if not row["trained_share"]), None)


def best_method(comparison: pd.DataFrame) -> str | None:
    """Return the method with the best balance among those that changed something."""
    judged = comparison[comparison["changed_tensors"] > 0].dropna(subset=["balance"])
    balances = {method: row["balance"] for method, row in by_method(judged).items()}
    return max(balances, key=lambda method: balances[method], default=None)


def _numbers(scored: Mapping[str, Any]) -> dict[str, Any]:
    headline, overlap = scored["headline"], scored.get("routing_overlap", {})
    return {
        "forget_efficacy": headline["forget"]["value"],
        "forget_efficacy_stderr": headline["forget"]["standard_error"],
        "utility": headline["retain"]["value"],
        "utility_stderr": headline["retain"]["standard_error"],
        "routing_overlap_forget": overlap.get("forget"),
        "routing_overlap_retain": overlap.get("retain"),
        **{key: scored.get(key) for key in ("trained_share", "changed_share", "changed_tensors")},
    }


def _further(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found = [(name, m["value"], m["standard_error"]) for name, m in measures.items()]
    pairs = [{name: value, f"{name}{STDERR}": error} for name, value, error in found]
    return {name: number for pair in pairs for name, number in pair.items()}


def _measure(scores: Mapping[str, Any], subject: str) -> str:
    """Return what a subject is measured by: the same for all methods."""
    first: Mapping[str, Any] = next(iter(scores.values()), {"headline": {}})
    return first["headline"].get(subject, {}).get("measure", "accuracy")


def _judged(scored: Mapping[str, Any], chance: float | None) -> dict[str, float]:
    """Return the balance by which checkpoints are chosen, here of the test questions."""
    if chance is None:
        return {}
    forget, retain = (scored["headline"][name]["value"] for name in ("forget", "retain"))
    return {"chance": chance, "balance": retain - max(forget - chance, 0.0)}


def _known(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in the order of the columns; the harness says 'N/A' where it has none."""
    others = [name for name in numbers if name not in COLUMNS]
    return {
        name: numbers[name]
        for name in COLUMNS + others
        if isinstance(numbers.get(name), int | float) and not pd.isna(numbers[name])
    }


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
        **READABLE_COLUMNS,
        **{header(name): partial(_measured, name) for name in further(comparison)},
    }


READABLE_COLUMNS: dict[str, Callable[[Row], str]] = {
    "balance ↑": partial(_plain, "balance", ".3f"),
    "overlap forget": partial(_plain, "routing_overlap_forget", ".3f"),
    "overlap retain": partial(_plain, "routing_overlap_retain", ".3f"),
    "weights trained": partial(_plain, "trained_share", ".2%"),
    "seconds": partial(_plain, "seconds", ".1f"),
}
