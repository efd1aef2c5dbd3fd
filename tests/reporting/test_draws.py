"""Random experts: several draws, one sentence."""

from __future__ import annotations

from typing import Any

from seuf.reporting.comparison import comparison_table, draws_of, markdown, spread_over_draws
from tests.reporting.examples import numbers, scores


def scored(selection: str | None, objective: str = "rmu") -> dict[str, Any]:
    """Return scores of a method."""
    method = {"scope": "experts", "selection": selection, "objective": objective}
    return scores(0.5, 0.5, 0.1) | {"method": method}


SCORES = {
    "original": scores(1.0, 1.0, 0.0) | {"method": {"scope": "nothing", "selection": None}},
    "seuf_rmu": scored("affinity"),
    "one": scored("random"),
    "two": scored("random_2"),
    "lonely": scored("random", "ga"),
}


def test_draws_differ_in_their_random_expert_alone():
    assert draws_of(SCORES) == {"one": "one", "two": "one"}


def test_mean_and_deviation_are_told():
    """Forget .2 and .4: mean .3, deviation sqrt(2 * .1^2 / 1) = .141; retain .9 and .9."""
    metrics = {name: numbers(0.5, 0.5, 0.1) for name in SCORES}
    metrics["one"] |= {"forget_efficacy": 0.2, "utility": 0.9}
    metrics["two"] |= {"forget_efficacy": 0.4, "utility": 0.9}
    table = comparison_table(metrics, SCORES)

    told = spread_over_draws(table)

    assert told == [
        "Over 2 random experts (one, two): forget accuracy 0.300 ± 0.141, retain accuracy "
        "0.900 ± 0.000 (mean ± standard deviation)."
    ]
    assert markdown(table).endswith(f"\n\n{told[0]}\n")


def test_without_draws_nothing_is_said():
    table = comparison_table({name: numbers(0.5, 0.5, 0.1) for name in SCORES})

    assert spread_over_draws(table) == []
    assert "draws_of" not in table
