"""Paths read off where the same share is forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.forgetting import (
    at_targets,
    mean_until,
    outcome,
    pack_right,
    preference,
    rank_of_outcome,
    share_forgotten,
    unpack_right,
    value_at,
)

# Evaluations of which the original answers .42 of the forget questions; chance is .25.
EFFICACY, UTILITY = [0.42, 0.33, 0.25], [0.60, 0.45, 0.34]
FORGOTTEN = [share_forgotten(one, 0.42, 0.25) for one in EFFICACY]


def test_half_forgotten_is_half_way_to_chance():
    """At FE .335 = (.42 + .25) / 2, which lies 8.5 / 9 of the way from .42 to .33."""
    assert value_at(FORGOTTEN, EFFICACY, 0.5) == pytest.approx(0.335)
    assert value_at(FORGOTTEN, UTILITY, 0.5) == pytest.approx(0.60 - 0.15 * 8.5 / 9)
    assert value_at(FORGOTTEN, UTILITY, 0.5) == pytest.approx(0.458, abs=5e-4)


def test_what_a_path_does_not_reach_is_none_and_never_extrapolated():
    assert value_at(FORGOTTEN[:2], UTILITY[:2], 0.75) is None
    assert mean_until(FORGOTTEN[:2], UTILITY[:2], 0.75) is None
    assert value_at([], [], 0.5) is None


def test_a_share_counts_where_it_is_first_forgotten():
    """Forgotten .6 at once, then .2 and .8: .5 is crossed in the first step, .7 in the last."""
    forgotten, utility = [0.0, 0.6, 0.2, 0.8], [1.0, 0.4, 0.8, 0.2]

    assert value_at(forgotten, utility, 0.5) == pytest.approx(0.5)
    assert value_at(forgotten, utility, 0.7) == pytest.approx(0.3)


def test_the_mean_is_the_area_under_the_curve_over_its_width():
    """From (0, 1) to (.5, .5) and (1, 0): the mean until .9 is that at .45, so .55."""
    assert mean_until([0.0, 0.5, 1.0], [1.0, 0.5, 0.0], 0.9) == pytest.approx(0.55)


def test_a_detour_adds_nothing_to_the_mean():
    """First up to .6 (mean .7), then from .6 to .8 on the last line, .4 to .2 (mean .3)."""
    forgotten, utility = [0.0, 0.6, 0.2, 0.8], [1.0, 0.4, 0.8, 0.2]

    assert mean_until(forgotten, utility, 0.8) == pytest.approx((0.6 * 0.7 + 0.2 * 0.3) / 0.8)


def test_what_is_read_off_a_path_at_the_targets():
    """Of (0, 1), (.5, .5) and (1, 0) utility is 1 - share; the area until .9 is .55."""
    numbers = at_targets([0.0, 0.5, 1.0], [1.0, 0.5, 0.0], None)

    assert list(numbers.values()) == pytest.approx([0.5, 0.25, 0.1, *[None] * 3, 0.55])
    utilities = [f"utility_at_{share}" for share in (50, 75, 90)]
    losses = [f"general_loss_at_{share}" for share in (50, 75, 90)]
    assert list(numbers) == [*utilities, *losses, "area"]


def test_an_outcome_at_the_target_is_preferred_and_else_the_one_that_forgets_most():
    """At .5 the first path has .9 - .2 / 2 = .8; the second comes to .4, the third to .3."""
    reached, most, least = (
        outcome([{"forgotten": f, "utility": u} for f, u in path], 0.5)
        for path in (
            [(0.0, 0.9), (None, None), (1.0, 0.7)],
            [(0.0, 0.9), (0.4, 0.1), (0.2, 0.9)],
            [(0.0, 0.9), (0.3, 0.9)],
        )
    )

    assert reached == {"utility": pytest.approx(0.8), "forgotten": 1.0, "utility_there": 0.7}
    assert most == {"utility": None, "forgotten": 0.4, "utility_there": 0.1}
    assert rank_of_outcome(reached) > rank_of_outcome(most) > rank_of_outcome(least)
    assert rank_of_outcome(least) > rank_of_outcome(outcome([], 0.5))


def test_an_original_at_chance_has_nothing_to_forget():
    assert share_forgotten(0.1, 0.25, 0.25) is None


def test_of_those_at_the_target_the_one_of_most_utility_is_preferred():
    """The looks of the first test with target 1 and chance .25: only the third is there."""
    ranked = [preference(f, u, 1.0) for f, u in zip(FORGOTTEN, UTILITY, strict=True)]

    assert max(ranked) == ranked[2]
    assert preference(0.9, 0.5, 0.9) > preference(1.2, 0.4, 0.9)
    assert preference(0.8, 0.1, 0.9) > preference(0.7, 0.9, 0.9)
    assert preference(0.0, 0.1, 0.9) > preference(None, 0.9, 0.9)


paths = st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(0, 1)), min_size=1, max_size=8).map(
    lambda points: [(0.0, 1.0), *points]
)


@given(paths, st.floats(0.01, 1.0))
def test_what_is_read_off_lies_between_the_values_of_the_path(points, target):
    forgotten, values = zip(*points, strict=True)

    at, mean = value_at(forgotten, values, target), mean_until(forgotten, values, target)

    assert (at is None) == (mean is None) == (max(forgotten) < target - 1e-9)
    for value in (at, mean):
        assert value is None or min(values) - 1e-9 <= value <= max(values) + 1e-9


def test_right_answers_are_packed_as_their_number_and_bits():
    assert pack_right([1, 0, 1, 1, 0]) == "5:16"
    assert pack_right([0.0, 0.0, 1.0]) == "3:1"


@given(st.lists(st.integers(0, 1)))
def test_packing_loses_nothing(right):
    assert unpack_right(pack_right(right)) == right
