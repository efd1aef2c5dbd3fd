"""From the metrics of every method to the few of the study."""

from __future__ import annotations

Metrics = dict[str, dict[str, float]]  # by method; of what was not measured there is none

ORIGINAL = "original"
AT_EQUAL_FORGETTING = "utility_at_75"


def write_headline(metrics: Metrics) -> dict[str, float]:
    """Write what the original says, and the highest utility at equal forgetting.

    That is of methods that train every weight, and of those that train a part: one number each, so
    that a study is one short row. The highest of several methods is too good by chance; to compare
    methods see `comparison.md`.

    Args:
        metrics: Those of a study, as in `metrics.json` or `spread.json`.

    Returns:
        `FE_original`, `UT_original`, `UT75_everything`, `UT75_part`, each without those that no
        method has, and `methods`: how many there are beside the original.
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
