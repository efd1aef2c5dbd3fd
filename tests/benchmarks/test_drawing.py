"""What is taken where not all is."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from seuf.benchmarks.drawing import drawn

WORDS = ["ash", "beech", "cedar", "elm", "fir", "oak", "pine", "yew"]


def test_the_least_hashes_are_taken_in_the_order_of_the_items():
    hashes = sorted(WORDS, key=lambda word: hashlib.sha256(word.encode()).hexdigest())

    taken = drawn(WORDS, 3)

    assert taken == sorted(taken)
    assert {WORDS[place] for place in taken} == set(hashes[:3])


@given(st.permutations(WORDS), st.integers(0, 10))
def test_the_order_of_the_items_decides_nothing(shuffled, number):
    taken = {shuffled[place] for place in drawn(shuffled, number)}

    assert taken == {WORDS[place] for place in drawn(WORDS, number)}
    assert len(taken) == min(number, 8)


def test_each_group_gives_its_share():
    """4 of 12: a third of groups of 6, 3 and 3, that is 2, 1 and 1."""
    groups = ["a"] * 6 + ["b"] * 3 + ["c"] * 3

    taken = drawn([f"{group} {n}" for n, group in enumerate(groups)], 4, groups)

    assert sorted(groups[place] for place in taken) == ["a", "a", "b", "c"]


def test_a_group_that_is_too_small_for_a_share_gives_nothing():
    """3 of 7: of groups of 6 and 1 that is 2.6 and 0.4 items, 3 and 0 whole ones."""
    taken = drawn([f"item {n}" for n in range(7)], 3, ["a"] * 6 + ["b"])

    assert len(taken) == 3
    assert 6 not in taken
