"""The fewest experts of each layer that take a share of the set."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.unlearning.selection import (
    choice_overlap,
    fewest_to_reach,
    most_to_reach,
    shares_by_layer,
)

SCORES = torch.tensor([[1.0, 4.0, 2.0, 3.0], [8.0, 1.0, 1.0, 0.0]])  # of 10 in both layers


@st.composite
def tables(draw):
    """Return scores (L, E), and in each layer some are above 0."""
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    row = st.lists(st.integers(0, 20), min_size=experts, max_size=experts).filter(any)
    rows = draw(st.lists(row, min_size=layers, max_size=layers))
    return torch.tensor(rows, dtype=torch.float64)


def test_shares_are_of_the_layer():
    """The other axis would give the second expert 4/5 of the two layers' scores."""
    assert shares_by_layer(SCORES)[0].tolist() == pytest.approx([0.1, 0.4, 0.2, 0.3])


@pytest.mark.parametrize(
    ("threshold", "chosen"),
    [
        (0.1, [[1], [0]]),
        (0.4, [[1], [0]]),
        (0.5, [[1, 3], [0]]),
        (0.8, [[1, 3, 2], [0]]),
        (0.85, [[1, 3, 2], [0, 1]]),
        (1.0, [[1, 3, 2, 0], [0, 1, 2]]),
    ],
)
def test_experts_are_taken_until_the_threshold_is_reached(threshold, chosen):
    """Falling sums are .4, .7, .9, 1 and .8, .9, 1; of equals the first comes first."""
    assert fewest_to_reach(SCORES, threshold) == chosen


def test_a_sum_that_misses_the_threshold_by_rounding_has_reached_it():
    """.1 added eight times is .7999999999999999."""
    tenths = torch.full((1, 10), 0.1, dtype=torch.float64)

    assert float(tenths[0, :8].cumsum(0)[-1]) < 0.8
    assert fewest_to_reach(tenths, 0.8) == [list(range(8))]


@given(tables(), st.floats(0.001, 1.0))
def test_the_chosen_reach_the_threshold_and_without_the_last_they_would_not(scores, threshold):
    shares = shares_by_layer(scores)

    for row, chosen in zip(shares, fewest_to_reach(scores, threshold), strict=True):
        assert len(chosen) >= 1
        assert row[chosen].sum() >= threshold - 1e-8
        assert row[chosen[:-1]].sum() < threshold
        rest = [e for e in range(len(row)) if e not in chosen]
        assert not rest or row[rest].max() <= row[chosen].min()


@given(tables(), st.floats(0.001, 1.0))
def test_no_layer_needs_more_than_equal_shares_would(scores, threshold):
    layers, experts = scores.shape
    most = most_to_reach(experts, threshold)

    assert max(map(len, fewest_to_reach(scores, threshold))) <= most
    assert [len(c) for c in fewest_to_reach(torch.ones_like(scores), threshold)] == [most] * layers


@pytest.mark.parametrize(
    ("experts", "threshold", "most"), [(64, 0.15, 10), (20, 0.15, 3), (4, 0.01, 1), (8, 1.0, 8)]
)
def test_equal_shares_need_the_threshold_times_the_experts(experts, threshold, most):
    """64 * .15 = 9.6; 20 * .15 = 3; never none."""
    assert most_to_reach(experts, threshold) == most


def test_choice_overlap_is_what_both_chose_of_what_either_did():
    """(0, 1) and (1, 2) of these and (0, 3), (1, 0)."""
    assert choice_overlap([[1, 3], [2]], [[1], [2, 0]]) == 0.5
    assert choice_overlap([[1], [2]], [[2], [1]]) == 0.0
