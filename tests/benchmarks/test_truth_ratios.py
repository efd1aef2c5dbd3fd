"""TOFU's two numbers, against numbers worked out by hand."""

from __future__ import annotations

from math import log

import pytest
from scipy.stats import ks_2samp

from seuf.benchmarks.truth_ratios import (
    forget_quality,
    indifference,
    model_utility,
    share_of_true,
    truth_ratio_arithmetic,
    truth_ratio_geometric,
    truthfulness,
)

# A true answer of probability 1/2 a token, wrong ones of 1/4 and 1/16.
TRUE, WRONG = log(1 / 2), [log(1 / 4), log(1 / 16)]


def test_the_geometric_ratio_averages_log_likelihoods():
    """The geometric mean of 1/4 and 1/16 is 1/8; over 1/2 that is 1/4."""
    assert truth_ratio_geometric(TRUE, WRONG) == pytest.approx(1 / 4)


def test_the_arithmetic_ratio_averages_probabilities():
    """The mean of 1/4 and 1/16 is 5/32; over 1/2 that is 5/16."""
    assert truth_ratio_arithmetic(TRUE, WRONG) == pytest.approx(5 / 16)


def test_the_share_of_the_true_answer_is_among_all_choices():
    """1/2 of 1/2 + 1/4 + 1/16 = 13/16 is 8/13."""
    assert share_of_true(TRUE, WRONG) == pytest.approx(8 / 13)


@pytest.mark.parametrize("ratio", [truth_ratio_geometric, truth_ratio_arithmetic])
def test_a_ratio_of_a_broken_model_is_a_number(ratio):
    """Wrong answers likelier by e^2000: no float holds that."""
    assert 1e300 < ratio(-3000.0, [-1000.0, -1000.0]) < float("inf")
    assert ratio(-1000.0, [-3000.0, -3000.0]) == 0.0


def test_the_share_of_a_broken_model_is_a_number():
    """All answers have probability e^-2000, which is 0 as a float; alike, each has 1/3."""
    assert share_of_true(-2000.0, [-2000.0, -2000.0]) == pytest.approx(1 / 3)
    assert share_of_true(-3000.0, [-1000.0]) == pytest.approx(0, abs=1e-300)


@pytest.mark.parametrize(("ratio", "value"), [(0.25, 0.75), (1.0, 0.0), (4.0, 0.0)])
def test_what_stays_should_be_truer_than_what_is_wrong(ratio, value):
    assert truthfulness(ratio) == value


@pytest.mark.parametrize(("ratio", "value"), [(0.25, 0.25), (1.0, 1.0), (4.0, 0.25), (0.0, 0.0)])
def test_what_is_gone_should_be_as_likely_as_what_is_wrong(ratio, value):
    assert indifference(ratio) == value


def test_forget_quality_is_the_p_value_of_two_samples():
    """Two samples of 3 that do not overlap: of the 20 ways to mix them 2 are that extreme, 0.1."""
    low, high = [0.1, 0.2, 0.3], [0.7, 0.8, 0.9]

    assert forget_quality(low, high) == pytest.approx(0.1)
    assert forget_quality(low, low) == 1.0


def test_forget_quality_is_scipys():
    ratios, reference = [0.3, 1.2, 0.5, 2.0, 0.7], [0.4, 0.9, 1.1, 1.3, 3.0, 0.8]

    assert forget_quality(ratios, reference) == ks_2samp(ratios, reference).pvalue


def test_forget_quality_asks_not_which_way_a_ratio_goes():
    """The two published ways are one over the other: the order is reversed, the distance stays."""
    ratios, reference = [0.3, 1.2, 0.5, 2.0], [0.4, 0.9, 1.1, 3.0]
    turned = [[1 / ratio for ratio in sample] for sample in (ratios, reference)]

    assert forget_quality(*turned) == pytest.approx(forget_quality(ratios, reference))


def of_sets(*values: float) -> dict[str, float]:
    """Return one number for each of the three sets."""
    return dict(zip(("retain", "real authors", "world facts"), values, strict=True))


def test_model_utility_is_the_harmonic_mean_of_nine():
    """Three times 1, 1/2 and 1/4: 9 / (3 * (1 + 2 + 4)) = 3/7."""
    three = of_sets(1.0, 0.5, 0.25)

    assert model_utility(three, three, three) == pytest.approx(3 / 7)


def test_one_number_that_is_nothing_makes_utility_nothing():
    assert model_utility(of_sets(1, 1, 1), of_sets(1, 0, 1), of_sets(1, 1, 1)) == 0


def test_utility_without_one_of_the_nine_is_refused():
    with pytest.raises(KeyError, match="world facts"):
        model_utility(of_sets(1, 1, 1), {"retain": 1, "real authors": 1}, of_sets(1, 1, 1))
