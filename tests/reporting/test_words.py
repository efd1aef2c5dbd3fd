"""What numbers are called."""

import pytest

from seuf.reporting.comparison import comparison_table, header, markdown
from seuf.reporting.figures import efficacy_utility
from seuf.reporting.report import summary
from tests.reporting.examples import numbers

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
