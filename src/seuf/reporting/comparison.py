"""One row a method: how much is forgotten, what is left, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from seuf.reporting.draws import DRAWS_OF, draws_of

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
