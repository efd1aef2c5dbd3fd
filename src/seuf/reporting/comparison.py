"""One row a method: how much is forgotten, what is left, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

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
GENERATION_COLUMNS = ["rouge_forget", "rouge_forget_stderr", "rouge_retain", "rouge_retain_stderr"]


def compare(
    scores: Mapping[str, Mapping[str, Any]],
    logs: Mapping[str, pd.DataFrame],
    timings: Mapping[str, Mapping[str, float]],
) -> Metrics:
    """Return the measured numbers of each method, in the order of `scores`.

    Args:
        scores: What the evaluation of each method gave.
        logs: The training log of each method; they tell the chance level.
        timings: The seconds each method took.

    Returns:
        For each method its numbers by the names in `COLUMNS`, and in `GENERATION_COLUMNS` where
        the study generates. A number that was not measured is left out.
    """
    chance = study_chance(logs)
    return {
        method: _known({**_numbers(scored), **_judged(scored, chance), **timings[method]})
        for method, scored in scores.items()
    }


def comparison_table(metrics: Metrics) -> pd.DataFrame:
    """Return the metrics as a table: `method`, then `COLUMNS`, then ROUGE where it was measured."""
    measured = {name for numbers in metrics.values() for name in numbers}
    generated = GENERATION_COLUMNS if measured & set(GENERATION_COLUMNS) else []
    table = pd.DataFrame.from_dict(metrics, orient="index").reindex(columns=COLUMNS + generated)
    return table.rename_axis("method").reset_index()


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


def reference_method(comparison: pd.DataFrame) -> str | None:
    """Return the first method that trained nothing: the original model."""
    return next((m for m, row in by_method(comparison).items() if not row["trained_share"]), None)


def best_method(comparison: pd.DataFrame) -> str | None:
    """Return the method with the best balance among those that changed something."""
    judged = comparison[comparison["changed_tensors"] > 0].dropna(subset=["balance"])
    balances = {method: row["balance"] for method, row in by_method(judged).items()}
    return max(balances, key=lambda method: balances[method], default=None)


def _numbers(scored: Mapping[str, Any]) -> dict[str, Any]:
    questions, overlap = scored["questions"], scored["routing_overlap"]
    return {
        "forget_efficacy": questions["forget"]["accuracy"],
        "forget_efficacy_stderr": questions["forget"]["standard_error"],
        "utility": questions["retain"]["accuracy"],
        "utility_stderr": questions["retain"]["standard_error"],
        "routing_overlap_forget": overlap["forget"],
        "routing_overlap_retain": overlap["retain"],
        **{key: scored[key] for key in ("trained_share", "changed_share", "changed_tensors")},
        **_generated(scored.get("generation", {})),
    }


def _generated(generation: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {}
    for subject, scored in generation.items():
        numbers[f"rouge_{subject}"] = scored["rouge_l_recall"]
        numbers[f"rouge_{subject}_stderr"] = scored["standard_error"]
    return numbers


def _judged(scored: Mapping[str, Any], chance: float | None) -> dict[str, float]:
    """Return the balance by which checkpoints are chosen, here of the test questions."""
    if chance is None:
        return {}
    forget, retain = (scored["questions"][name]["accuracy"] for name in ("forget", "retain"))
    return {"chance": chance, "balance": retain - max(forget - chance, 0.0)}


def _known(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in the order of the columns; the harness says 'N/A' where it has none."""
    return {
        name: numbers[name]
        for name in COLUMNS + GENERATION_COLUMNS
        if isinstance(numbers.get(name), int | float) and not pd.isna(numbers[name])
    }
