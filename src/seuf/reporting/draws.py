"""Methods that differ in a random draw alone: their mean and spread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from seuf.reporting.words import measure

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
