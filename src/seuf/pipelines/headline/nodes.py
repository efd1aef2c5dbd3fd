"""From the metrics of every method to the few of the study."""

from __future__ import annotations

Metrics = dict[str, dict[str, float]]  # by method; what was not measured is left out

ORIGINAL = "original"
AT_EQUAL_FORGETTING = "utility_at_75"


def write_headline(metrics: Metrics) -> dict[str, float]:
    """Write what the original says, and the highest utility at equal forgetting.

    There is one number for the methods that train every weight, and one for those that train a
    part, so that a study is one short row. The highest of several methods is biased upwards by
    chance; to compare methods see `comparison.md`.

    Args:
        metrics: The metrics of a study, as in `metrics.json` or `spread.json`.

    Returns:
        `FE_original`, `UT_original`, `UT75_everything`, `UT75_part`, each only if it was measured,
        and `methods`: the number of methods that change weights.
    """
    original = metrics.get(ORIGINAL, {})
    trained = {name: row for name, row in metrics.items() if row.get("trained_share")}
    headline = {
        "FE_original": original.get("forget_efficacy"),
        "UT_original": original.get("utility"),
        "UT75_everything": _highest([row for row in trained.values() if row["trained_share"] == 1]),
        "UT75_part": _highest([row for row in trained.values() if row["trained_share"] < 1]),
        "methods": len(trained),
    }
    return {name: value for name, value in headline.items() if value is not None}


def _highest(rows: list[dict[str, float]]) -> float | None:
    return max(
        (row[AT_EQUAL_FORGETTING] for row in rows if AT_EQUAL_FORGETTING in row), default=None
    )
