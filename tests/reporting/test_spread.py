"""Mean and spread over seeds and base models."""

import pandas as pd
import pytest

from seuf.reporting import spread


def runs(**columns: list) -> pd.DataFrame:
    rows = {
        "base": ["a", "b", "a", "a"],
        "method": ["m", "m", "m", "original"],
        "seed": [0, 0, 0, 0],
        "learning_rate": [1e-3, 1e-3, 1e-4, 1e-4],
        "forget_efficacy": [0.2, 0.4, 0.9, 1.0],
        "utility": [0.8, 1.0, 0.9, 1.0],
        "trained_share": [0.05, 0.05, 0.05, 0.0],
        "seconds": [1.0, 3.0, 9.0, 0.0],
    }
    return pd.DataFrame(rows | columns)


CHOSEN = {"m": 1e-3, "original": 1e-4}


def test_only_runs_at_the_chosen_learning_rate_count():
    """Two of m's three runs; the mean of .2 and .4 is .3, of .8 and 1 it is .9."""
    row = spread.summarise(runs(), CHOSEN).set_index("method").loc["m"]

    assert row["runs"] == 2
    assert row["forget_efficacy_mean"] == pytest.approx(0.3)
    assert row["utility_mean"] == pytest.approx(0.9)


def test_spread_is_the_sample_standard_deviation():
    """Of .2 and .4: each .1 off the mean, so sqrt(2 * .01 / (2 - 1)) = .1414."""
    row = spread.summarise(runs(), CHOSEN).set_index("method").loc["m"]

    assert row["forget_efficacy_sd"] == pytest.approx(0.02**0.5)


def test_one_run_has_no_spread_and_says_so():
    table = spread.summarise(runs(), CHOSEN)

    assert pd.isna(table.set_index("method").loc["original", "utility_sd"])
    assert "| `original` | 1.00 | 1.00 | 0.0% | - | 1 |" in spread.markdown(table)


def test_methods_keep_the_order_of_the_runs():
    assert list(spread.summarise(runs(), CHOSEN)["method"]) == ["m", "original"]


def test_a_line_gives_mean_and_spread():
    line = spread.markdown(spread.summarise(runs(), CHOSEN)).splitlines()[2]

    assert line == "| `m` | 0.30 ± 0.14 | 0.90 ± 0.14 | 5.0% | 0.001 | 2 |"


def test_numbers_that_were_not_measured_are_left_out_of_the_metrics():
    metrics = spread.metrics(spread.summarise(runs(), CHOSEN))

    assert "utility_sd" not in metrics["original"]
    assert metrics["m"]["utility_mean"] == pytest.approx(0.9)
