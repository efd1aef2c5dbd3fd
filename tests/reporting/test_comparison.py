"""One row a method."""

import pandas as pd

from seuf.reporting.comparison import (
    best_method,
    compare,
    comparison_table,
    original_method,
    study_chance,
)
from tests.reporting.examples import comparison, generation, log, scores

LOGS = {"original": log(), "seuf_ga": log((0.1, 5, 0.5, 0.9, 0.9))}
TIMINGS = {"original": {"seconds": 0.5}, "seuf_ga": {"seconds": 2.0}}
SCORES = {"original": scores(1.0, 1.0, 0.0), "seuf_ga": scores(0.5, 0.75, 0.1)}


def test_each_method_has_its_numbers_in_the_order_of_the_study():
    metrics = compare(SCORES, LOGS, TIMINGS)

    assert list(metrics) == ["original", "seuf_ga"]
    assert metrics["seuf_ga"] == {
        "forget_efficacy": 0.5,
        "forget_efficacy_stderr": 0.05,
        "utility": 0.75,
        "utility_stderr": 0.05,
        "chance": 0.25,
        "balance": 0.5,
        "routing_overlap_forget": 0.5,
        "routing_overlap_retain": 0.75,
        "trained_share": 0.1,
        "changed_share": 0.1,
        "changed_tensors": 2,
        "seconds": 2.0,
    }


def test_below_chance_nothing_more_is_gained():
    """Forget accuracy 0.125 is below a chance of 0.25: the balance is the utility, 0.75."""
    metrics = compare({"seuf_ga": scores(0.125, 0.75, 0.1)}, LOGS, TIMINGS)

    assert metrics["seuf_ga"]["balance"] == 0.75


def test_a_number_that_was_not_measured_is_left_out():
    """Without a log there is no chance; the harness writes N/A for a missing error."""
    unknown = {"original": scores(1.0, 1.0, 0.0, error="N/A")}

    metrics = compare(unknown, {"original": log()}, TIMINGS)

    missing = {"chance", "balance", "forget_efficacy_stderr", "utility_stderr"}
    assert missing.isdisjoint(metrics["original"])


def test_generated_answers_add_rouge():
    generated = {"seuf_ga": scores(0.5, 0.75, 0.1) | {"measures": generation(0.1, 0.6)}}

    metrics = compare(generated, LOGS, TIMINGS)

    assert metrics["seuf_ga"]["rouge_forget"] == 0.1
    assert metrics["seuf_ga"]["rouge_forget_stderr"] == 0.01
    assert metrics["seuf_ga"]["rouge_retain"] == 0.6
    assert metrics["seuf_ga"]["rouge_retain_stderr"] == 0.02


def test_the_table_has_a_column_for_rouge_only_where_it_was_measured():
    assert "rouge_forget" not in comparison()
    assert "rouge_retain_stderr" in comparison(full_ga={"rouge_retain_stderr": 0.1})


def test_the_table_survives_being_saved(tmp_path):
    table = comparison_table(compare(SCORES, LOGS, TIMINGS))

    table.to_csv(tmp_path / "comparison.csv", index=False)

    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "comparison.csv"), table)


def test_chance_comes_from_the_first_log_that_tells_it():
    assert study_chance(LOGS) == 0.25
    assert study_chance({"original": log()}) is None


def test_the_original_is_what_trained_nothing():
    assert original_method(comparison()) == "original"
    assert original_method(comparison(original={"trained_share": 0.5})) is None


def test_the_best_has_the_best_balance():
    """Balances: full_ga 0.5 - 0 = 0.5, seuf_rmu 1.0 - 0.25 = 0.75."""
    assert best_method(comparison()) == "seuf_rmu"


def test_a_method_that_changed_nothing_is_not_the_best():
    assert best_method(comparison(seuf_rmu={"changed_tensors": 0})) == "full_ga"
