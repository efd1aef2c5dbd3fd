"""One row a method, for tools and for people."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from seuf.reporting.comparison import (
    best_method,
    compare,
    comparison_table,
    header,
    markdown,
    original_method,
    random_draws,
    spread_over_draws,
    study_chance,
)
from seuf.reporting.figures import efficacy_utility
from seuf.reporting.report import summary
from tests.reporting.examples import comparison, generation, log, numbers, scores

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


FREE = {
    "headline": {
        "forget": {"measure": "rouge_l_recall_pltrdy"},
        "retain": {"measure": "accuracy"},
    }
}


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("rouge_forget", "ROUGE-L forget ↓"),
        ("rouge_retain_fill_blank", "ROUGE-L retain, fill blank ↑"),
        ("macro_retain", "retain accuracy by topic ↑"),
        ("something_new", "something new"),
        ("rouge_holdout", "ROUGE-L holdout"),
    ],
)
def test_a_measure_has_a_readable_name(name, called):
    assert header(name) == called


def test_a_study_of_free_answers_is_not_said_to_measure_accuracy():
    metrics = {"original": numbers(0.6, 0.7, 0.0), "seuf_ga": numbers(0.1, 0.6, 0.1)}
    for row in metrics.values():
        row["chance"] = 0.0

    table = comparison_table(metrics, {"original": FREE})

    assert markdown(table).startswith("| method   | forget ROUGE-L ↓ | retain accuracy ↑ |")
    assert "10.0% of the answers to forget questions (60.0% before) and answers 60.0%" in summary(
        table
    )
    assert "ROUGE-L on forget questions" in efficacy_utility(table).layout.xaxis.title.text


def test_what_is_measured_beside_has_a_column_of_its_own():
    metrics = {"original": numbers(1, 1, 0) | {"rouge_forget": 0.5, "rouge_forget_stderr": 0.1}}

    assert "| ROUGE-L forget ↓ |" in markdown(comparison_table(metrics))
    assert "|    0.500 ± 0.100 |" in markdown(comparison_table(metrics))


def test_a_measure_of_a_benchmark_from_outside_is_called_by_its_name():
    new = {"headline": {"forget": {"measure": "exact_match"}, "retain": {"measure": "accuracy"}}}
    rows = {"original": numbers(0.6, 0.7, 0.0), "seuf_ga": numbers(0.1, 0.6, 0.1)}

    table = comparison_table(rows, {"original": new})

    assert "| forget exact match ↓ |" in markdown(table)
    assert "it gives 10.0% of the answers to forget questions" in summary(table)


def test_markdown_lines_up_and_says_what_is_measured():
    expected = """\
| method   | forget accuracy ↓ | retain accuracy ↑ | balance ↑ | overlap forget | overlap retain | weights trained | seconds |
| :------- | ----------------: | ----------------: | --------: | -------------: | -------------: | --------------: | ------: |
| original |     1.000 ± 0.030 |     1.000 ± 0.040 |     0.250 |          0.500 |          0.750 |           0.00% |    12.3 |
| full_ga  |     0.250 ± 0.030 |     0.500 ± 0.040 |     0.500 |          0.500 |          0.750 |         100.00% |    12.3 |
| seuf_rmu |     0.500 ± 0.030 |     1.000 ± 0.040 |     0.750 |          0.500 |          0.750 |           6.25% |    12.3 |
"""  # noqa: E501 - a table's row is one line

    assert markdown(comparison()) == expected


def test_generated_answers_have_columns_of_their_own():
    rouge = {"rouge_forget": 0.125, "rouge_forget_stderr": 0.01, "rouge_retain": 0.5}

    header, _, original, full_ga, _ = markdown(comparison(full_ga=rouge)).splitlines()

    assert header.endswith("| seconds | ROUGE-L forget ↓ | ROUGE-L retain ↑ |")
    assert full_ga.endswith("|    12.3 |    0.125 ± 0.010 |            0.500 |")
    assert original.endswith("|    12.3 |                - |                - |")


def test_an_unknown_error_is_not_shown():
    unknown = {"forget_efficacy_stderr": float("nan")}

    assert "|             0.250 |" in markdown(comparison(full_ga=unknown))


def test_a_pipe_in_a_name_does_not_end_its_cell():
    table = comparison().replace({"method": {"full_ga": "full|ga"}})

    assert "| full\\|ga |" in markdown(table)


def scored(selection: str | None, objective: str = "rmu") -> dict[str, Any]:
    """Return scores of a method."""
    method = {"scope": "experts", "selection": selection, "objective": objective}
    return scores(0.5, 0.5, 0.1) | {"method": method}


DRAWN = {
    "original": scores(1.0, 1.0, 0.0) | {"method": {"scope": "nothing", "selection": None}},
    "seuf_rmu": scored("affinity"),
    "one": scored("random"),
    "two": scored("random_2"),
    "in_its_layer": scored("random_in:affinity"),
    "lonely": scored("random", "ga"),
}


def test_draws_differ_in_their_random_expert_alone():
    assert random_draws(DRAWN) == {"one": "one", "two": "one"}


def test_mean_and_deviation_are_told():
    """Forget .2 and .4: mean .3, deviation sqrt(2 * .1^2 / 1) = .141; retain .9 and .9."""
    metrics = {name: numbers(0.5, 0.5, 0.1) for name in DRAWN}
    metrics["one"] |= {"forget_efficacy": 0.2, "utility": 0.9}
    metrics["two"] |= {"forget_efficacy": 0.4, "utility": 0.9}
    table = comparison_table(metrics, DRAWN)

    told = spread_over_draws(table)

    assert told == [
        "Over 2 random experts (one, two): forget accuracy 0.300 ± 0.141, retain accuracy "
        "0.900 ± 0.000 (mean ± standard deviation)."
    ]
    assert markdown(table).endswith(f"\n\n{told[0]}\n")


def test_without_draws_nothing_is_said():
    table = comparison_table({name: numbers(0.5, 0.5, 0.1) for name in DRAWN})

    assert spread_over_draws(table) == []
    assert "draws_of" not in table
