"""Mean and spread of a study that runs every method with several seeds on several base models."""

from __future__ import annotations

from typing import Any

import pandas as pd

MEASURED = ["forget_efficacy", "utility", "seconds"]


def summarise(runs: pd.DataFrame, learning_rates: dict[str, float]) -> pd.DataFrame:
    """Return each method's mean and standard deviation over all its runs at its learning rate.

    Args:
        runs: One row a run: `base`, `method`, `seed`, `learning_rate`, and what was measured.
        learning_rates: The learning rate that each method was given.

    Returns:
        One row a method, in the order of `runs`: `method`, `learning_rate`, `runs`,
        `trained_share`, and `<measure>_mean`, `<measure>_sd` (of the sample; missing for a single
        run) for forget efficacy, utility, seconds.
    """
    kept = runs[runs["learning_rate"] == runs["method"].map(learning_rates)]
    rows = []
    for name, group in kept.groupby("method", sort=False):
        row: dict[str, Any] = {
            "method": name,
            "learning_rate": group["learning_rate"].iloc[0],
            "runs": len(group),
            "trained_share": group["trained_share"].mean(),
        }
        for measure in MEASURED:
            row[f"{measure}_mean"] = group[measure].mean()
            row[f"{measure}_sd"] = group[measure].std(ddof=1)
        rows.append(row)
    return pd.DataFrame(rows)


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Return the table as {method: {measure: value}}, for `dvc metrics`."""
    return {
        str(row.pop("method")): {key: value for key, value in row.items() if pd.notna(value)}
        for row in _rows(table)
    }


def markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown."""
    lines = [
        "| method | accuracy on forget ↓ | accuracy on the rest ↑ | weights trained | lr | runs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in _rows(table):
        rate = f"{row['learning_rate']:g}" if row["trained_share"] else "-"
        forget, utility = (_mean_and_sd(row, measure) for measure in MEASURED[:2])
        lines.append(
            f"| `{row['method']}` | {forget} | {utility} | {row['trained_share']:.1%} "
            f"| {rate} | {row['runs']} |"
        )
    return "\n".join(lines) + "\n"


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def _mean_and_sd(row: dict[str, Any], measure: str) -> str:
    mean, deviation = row[f"{measure}_mean"], row[f"{measure}_sd"]
    return f"{mean:.2f}" if pd.isna(deviation) else f"{mean:.2f} ± {deviation:.2f}"
