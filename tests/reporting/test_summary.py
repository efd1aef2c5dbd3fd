"""The study in a few words."""

from seuf.reporting.report import headline, summary
from tests.reporting.examples import comparison, numbers


def test_the_summary_tells_what_the_best_method_reached():
    """Balances 0.75 and 0.5 are 0.25 apart; two errors are 2 sqrt(2 (.03^2 + .04^2)) = 0.14."""
    assert summary(comparison()) == (
        "seuf_rmu has the best balance of 2 methods: it answers 50.0% of the forget questions "
        "(100.0% before, 25% by guessing) and 100.0% of the retain questions (100.0% before). "
        "No other method is within two standard errors of it."
    )


def test_methods_within_two_standard_errors_are_named():
    """Balances 0.75 and 0.65 are 0.1 apart, less than 0.14."""
    close = comparison(full_ga={"balance": 0.65})

    assert summary(close).endswith("Within two standard errors of it is full_ga.")


def test_a_model_that_was_not_unlearned_is_no_rival():
    """Of `retrained` there is no training: two of the three rows were trained, one is a rival."""
    nan = float("nan")
    other = {"trained_share": nan, "changed_share": nan, "changed_tensors": nan, "seconds": nan}

    told = summary(comparison(full_ga={"balance": 0.75}, retrained=numbers(0.5, 1.0, 0.0) | other))

    assert told.startswith("full_ga has the best balance of 2 methods: ")
    assert told.endswith("Within two standard errors of it is seuf_rmu.")


def test_a_balance_that_was_not_measured_is_no_rival():
    unknown = comparison(full_ga={"balance": float("nan")})

    assert summary(unknown).startswith("seuf_rmu has the best balance of 1 method: ")
    assert summary(unknown).endswith("No other method is within two standard errors of it.")


def test_without_errors_nothing_is_said_of_others():
    unknown = comparison().assign(forget_efficacy_stderr=float("nan"))

    assert summary(unknown).endswith("(100.0% before).")


def test_a_study_in_which_no_balance_rose_says_so():
    good = comparison(original={"balance": 0.9})

    assert summary(good).endswith("No method has a better balance than the original model.")


def test_a_study_that_changed_nothing_says_so_and_has_no_headline():
    unchanged = comparison().assign(changed_tensors=0)

    assert summary(unchanged).startswith("No method changed the model")
    assert headline(unchanged) == []


def test_the_headline_shows_before_and_after():
    assert headline(comparison()) == [
        ("1.000 → 0.500", "accuracy on forget questions"),
        ("1.000 → 1.000", "accuracy on retain questions"),
        ("6.25%", "of the weights were trained"),
        ("75.0%", "of retain routing as before"),
    ]


def test_without_an_original_only_the_result_is_told():
    alone = comparison().iloc[1:]

    assert "it answers 50.0% of the forget questions and 100.0% of" in summary(alone)
    assert headline(alone)[0] == ("0.500", "accuracy on forget questions")
