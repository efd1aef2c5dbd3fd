"""A study of three methods, small enough to know its numbers by heart."""

from __future__ import annotations

from typing import Any

import pandas as pd

from seuf.reporting.comparison import comparison_table

LOG = ["learning_rate", "step", "utility", "chance", "overlap_forget", "overlap_retain", "kept"]
SELECTED: dict[str, Any] = {
    "affinity": {
        "experts": [[1, 3]],
        "scores": [0.25],
        "margin": 0.125,
        "runner_up": [0, 2],
        "margin_error": 0.0625,
        "stability_halves": 0.5,
        "stability_subset": None,
        "stability_two_subsets": None,
        "warnings": ["a near-tie"],
    },
    "by_hand": {
        "experts": [[1, 3]],
        "scores": None,
        "margin": None,
        "runner_up": None,
        "margin_error": None,
        "stability_halves": None,
        "stability_subset": None,
        "stability_two_subsets": None,
        "warnings": [],
    },
}


def scores(forget: float, retain: float, trained: float, error: Any = 0.05) -> dict[str, Any]:
    """Return the scores of a method that changed two tensors if it trained anything."""
    return {
        "headline": {
            "forget": {"measure": "accuracy", "value": forget, "standard_error": error},
            "retain": {"measure": "accuracy", "value": retain, "standard_error": error},
        },
        "measures": {},
        "routing_overlap": {"forget": 0.5, "retain": 0.75},
        "trained_share": trained,
        "changed_share": trained,
        "changed_tensors": 2 if trained else 0,
        "experts": [],
    }


def generation(forget: float, retain: float) -> dict[str, Any]:
    """Return the measures of generated answers."""
    return {
        "rouge_forget": {"value": forget, "standard_error": 0.01},
        "rouge_retain": {"value": retain, "standard_error": 0.02},
    }


def log(*looks: tuple[float, int, float | None, float | None, float | None]) -> pd.DataFrame:
    """Return a training log of looks (learning rate, step, utility, both overlaps).

    Each learning rate begins with the original; the look of most utility was kept.
    """
    most = max((look[2] for look in looks if look[2] is not None), default=None)
    kept = next((look for look in looks if look[2] == most), None) if most is not None else None
    rows = []
    for rate in dict.fromkeys(look[0] for look in looks):
        rows.append([rate, 0, 1.0, 0.25, 1.0, 1.0, False])
        rows += [[*of[:3], 0.25, *of[3:], of is kept] for of in looks if of[0] == rate]
    return pd.DataFrame(rows, columns=LOG)


def comparison(**changes: dict[str, Any]) -> pd.DataFrame:
    """Return the comparison of an original, `full_ga` and `seuf_rmu`, the best; with changes.

    A change of a row that is not among them is a row of its own, the last.
    """
    rows = {
        "original": numbers(1.0, 1.0, 0.0),
        "full_ga": numbers(0.25, 0.5, 1.0),
        "seuf_rmu": numbers(0.5, 1.0, 0.0625),
    }
    rows |= {name: rows.get(name, {}) | change for name, change in changes.items()}
    return comparison_table(rows)


def numbers(forget: float, retain: float, trained: float) -> dict[str, float]:
    """Return a method's metrics where guessing gives a quarter."""
    return {
        "forget_efficacy": forget,
        "forget_efficacy_stderr": 0.03,
        "utility": retain,
        "utility_stderr": 0.04,
        "chance": 0.25,
        "balance": retain - (forget - 0.25),
        "routing_overlap_forget": 0.5,
        "routing_overlap_retain": 0.75,
        "trained_share": trained,
        "changed_share": trained,
        "changed_tensors": 2 if trained else 0,
        "seconds": 12.34,
    }


def routing(shares: list[float], layer: int = 1) -> pd.DataFrame:
    """Return a routing table of two layers: the given one, and one with even shares."""
    even = [1 / len(shares)] * len(shares)
    rows = [
        (at, expert, share)
        for at, layer_shares in ((0, even), (layer, shares))
        for expert, share in enumerate(layer_shares)
    ]
    return pd.DataFrame(rows, columns=["layer", "expert", "token_share"])
