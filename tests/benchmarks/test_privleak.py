"""PrivLeak, both ways that it is counted."""

from __future__ import annotations

import pytest

from seuf.benchmarks.measures import privleak, privleak_of_muse


def test_a_model_that_still_knows_everything_has_minus_a_hundred():
    """Every text to forget looks better known than any other: the AUC is 1, in MUSE 0."""
    assert privleak(1.0, 0.5) == pytest.approx(-100)
    assert privleak_of_muse(0.0, 0.4772) == pytest.approx(-100)


def test_what_retraining_leaves_has_zero():
    assert privleak(0.52, 0.52) == privleak_of_muse(0.48, 0.48) == 0


def test_looking_less_known_than_after_retraining_is_above_zero():
    """(1 - 0.4 - 0.5) / 0.5 is a fifth."""
    assert privleak(0.4, 0.5) == pytest.approx(20)


def test_the_two_counts_give_a_model_the_same_number():
    """MUSE's AUC is one minus ours: (0.3 - 0.48) / 0.48."""
    assert privleak(0.7, 0.52) == pytest.approx(privleak_of_muse(0.3, 0.48)) == pytest.approx(-37.5)
