"""Means and their standard errors."""

import pytest

from seuf.benchmarks.answers import mean_with_error


def test_the_error_of_a_mean_is_the_deviation_over_the_root_of_the_number():
    """Of 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 = 14, variance 14/3, error sqrt(14/12)."""
    assert mean_with_error([1, 2, 3, 6]) == {
        "value": 3,
        "standard_error": pytest.approx((14 / 12) ** 0.5),
    }


def test_a_single_value_has_no_error():
    assert mean_with_error([0.25]) == {"value": 0.25, "standard_error": 0.0}
