"""A study of three methods, small enough to know its numbers by heart."""

from __future__ import annotations

from typing import Any

import pandas as pd

from seuf.reporting.comparison import comparison_table, paths_of

LOG = [
    "learning_rate",
    "step",
    "forget_efficacy",
    "utility",
    "chance",
    "forgotten",
    "test_forget_efficacy",
    "test_utility",
    "test_chance",
    "test_forgotten",
    "test_retain",
    "general_loss",
    "test_forget_right",
    "test_utility_right",
    "overlap_forget",
    "overlap_retain",
    "kept",
]
CHANCE = 0.25
# (forget efficacy, utility) of three looks, from the original on: .0, .529 and 1 are forgotten
LOOKS = ((0.42, 0.60), (0.33, 0.45), (0.25, 0.34))
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
METHODS = {
    "original": {"scope": "nothing", "selection": None, "objective": None},
    "full_ga": {"scope": "everything", "selection": None, "objective": "ga"},
    "seuf_ga": {"scope": "experts", "selection": "affinity", "objective": "ga"},
    "contrast_ga": {"scope": "experts", "selection": "contrast", "objective": "ga"},
    "seuf_rmu": {"scope": "experts", "selection": "affinity", "objective": "rmu"},
    "full_rmu": {"scope": "everything", "selection": None, "objective": "rmu"},
    "random_rmu": {"scope": "experts", "selection": "random", "objective": "rmu"},
}


def method(name: str) -> dict[str, Any]:
    """Return the settings of a method, also of one that is not among `METHODS`."""
    family, _, objective = name.rpartition("_")
    made_up = {"scope": "experts", "selection": family or name, "objective": objective or "other"}
    return METHODS.get(name, made_up)


def scores(
    forget: float, retain: float, trained: float, error: Any = 0.05, name: str = "seuf_ga"
) -> dict[str, Any]:
    """Return the scores of a method that changed two tensors if it trained anything."""
    settings = method(name if trained else "original")
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
        "experts": [[1, 3]] if settings["scope"] == "experts" else [],
        "method": settings,
    }


def generation(forget: float, retain: float) -> dict[str, Any]:
    """Return the measures of generated answers."""
    return {
        "rouge_forget": {"value": forget, "standard_error": 0.01},
        "rouge_retain": {"value": retain, "standard_error": 0.02},
    }


def log(
    *looks: tuple[float, float], rate: float = 0.1, kept: int = -1, **columns: list[Any]
) -> pd.DataFrame:
    """Return a training log of looks (forget efficacy, utility), the original's first.

    They are five steps apart and the same on selection and on test questions; the general loss is 1
    and doubles from look to look, the overlaps are 1 and fall by a tenth and a twentieth.
    """
    rows = []
    for place, (forget, utility) in enumerate(looks):
        share = (looks[0][0] - forget) / (looks[0][0] - CHANCE)
        seen = (forget, utility, CHANCE, share)
        routing = (1 - 0.1 * place, 1 - 0.05 * place)
        rows.append(
            [rate, 5 * place, *seen, *seen, utility, 2.0**place, None, None, *routing, False]
        )
    table = pd.DataFrame(rows, columns=LOG).assign(**columns)
    if looks:
        table.loc[range(len(looks))[kept], "kept"] = True
    return table


def paths(base: str = "0", seed: int = 0, **looks: tuple[tuple[float, float], ...]) -> pd.DataFrame:
    """Return the paths of methods, each of its looks."""
    logs = {name: log(*seen) for name, seen in looks.items()}
    scored = {name: scores(0.5, 0.5, 0.1, name=name) for name in logs}
    return paths_of(logs, scored, base, seed)


def comparison(**changes: dict[str, Any]) -> pd.DataFrame:
    """Return the comparison of an original, `full_ga` and `seuf_rmu`, with changes.

    A change of a row that is not among them is a row of its own, the last.
    """
    rows = {
        "original": numbers(1.0, 1.0, 0.0),
        "full_ga": numbers(0.25, 0.5, 1.0),
        "seuf_rmu": numbers(0.5, 1.0, 0.0625),
    }
    rows |= {name: rows.get(name, {}) | change for name, change in changes.items()}
    scored = {name: scores(0.5, 0.5, row["trained_share"], name=name) for name, row in rows.items()}
    return comparison_table(rows, scored)


def numbers(forget: float, retain: float, trained: float) -> dict[str, float]:
    """Return a method's metrics where guessing gives a quarter."""
    reached = {"utility_at_50": 0.75, "general_loss_at_50": 1.5, "area": 0.875}
    return {
        **(reached if trained else {}),
        "forget_efficacy": forget,
        "forget_efficacy_stderr": 0.03,
        "utility": retain,
        "utility_stderr": 0.04,
        "retain": retain,
        "retain_stderr": 0.04,
        "chance": CHANCE,
        "general_loss": 2.5,
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
        (at, expert, share / 2, share)
        for at, layer_shares in ((0, even), (layer, shares))
        for expert, share in enumerate(layer_shares)
    ]
    return pd.DataFrame(rows, columns=["layer", "expert", "affinity", "token_share"])
