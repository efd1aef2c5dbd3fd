"""Learning rates are chosen on the selection questions, the same grid for all."""

import pandas as pd
import pytest

from seuf.unlearning.replication import choose_learning_rates, runs_of
from seuf.unlearning.settings import Method, ReplicationSettings

GA = Method(scope="everything", objective="ga")
METHODS = {"original": Method(scope="nothing"), "full_ga": GA}


def settings_of(seeds: list[int]) -> ReplicationSettings:
    return ReplicationSettings(bases={"a": 0}, seeds=seeds, learning_rates=[1e-4, 1e-3])


def runs(*rows: tuple[str, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "learning_rate", "balance"])


def test_the_learning_rate_of_best_mean_balance_is_chosen():
    """1e-3 has the best single run (.9) but a mean of .5; 1e-4 has a mean of .6."""
    table = runs(("m", 1e-3, 0.9), ("m", 1e-3, 0.1), ("m", 1e-4, 0.6), ("m", 1e-4, 0.6))

    assert choose_learning_rates(table) == {"m": 1e-4}


def test_of_equal_learning_rates_the_smallest_is_chosen():
    assert choose_learning_rates(runs(("m", 1e-3, 0.5), ("m", 1e-4, 0.5))) == {"m": 1e-4}


def test_each_method_has_its_own_learning_rate():
    table = runs(("a", 1e-3, 0.5), ("a", 1e-4, 0.4), ("b", 1e-3, 0.4), ("b", 1e-4, 0.5))

    assert choose_learning_rates(table) == {"a": 1e-3, "b": 1e-4}


def test_test_scores_have_no_say_in_the_choice():
    table = runs(("m", 1e-3, 0.4), ("m", 1e-4, 0.5)).assign(utility=[1.0, 0.0])

    assert choose_learning_rates(table) == {"m": 1e-4}


def test_every_training_method_tries_the_whole_grid_and_the_original_runs_once():
    tasks = runs_of(METHODS, settings_of([5, 6]))

    assert [(name, method.learning_rates, seed) for name, method, seed in tasks] == [
        ("original", METHODS["original"].learning_rates, 5),
        ("full_ga", [1e-4], 5),
        ("full_ga", [1e-3], 5),
    ]


def test_the_other_seeds_run_with_the_chosen_learning_rate_only():
    tasks = runs_of(METHODS, settings_of([0, 1, 2]), {"full_ga": 1e-3, "original": 1.0})

    assert [(name, method.learning_rates, seed) for name, method, seed in tasks] == [
        ("full_ga", [1e-3], 1),
        ("full_ga", [1e-3], 2),
    ]


def test_nothing_but_the_learning_rate_of_a_method_changes():
    (task,) = runs_of({"full_ga": GA}, settings_of([0, 1]), {"full_ga": 1e-3})

    assert task[1].model_copy(update={"learning_rates": GA.learning_rates}) == GA
    assert task[1].learning_rates == pytest.approx([1e-3])
