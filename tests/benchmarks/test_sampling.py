"""Which rows of a published data set are used, and how they are checked."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.benchmarks.records import Question
from seuf.benchmarks.sampling import (
    check_rows,
    even_pieces,
    general_passages,
    long_texts,
    sample_positions,
    split_questions,
)
from seuf.inputs import InputError


@pytest.mark.parametrize("row", [{"b": "y"}, {"a": None, "b": "y"}, {"a": " ", "b": "y"}])
def test_the_first_row_that_lacks_a_text_is_named_with_what_it_has(row):
    with pytest.raises(InputError, match=r"^X, row 2: `a` must be a text that is not empty; .*'b'"):
        check_rows("X", [{"a": "x", "b": "y"}, row], ["a", "b"])


def test_a_text_may_be_empty_where_that_is_said_but_must_be_a_text():
    check_rows("X", [{"a": ""}], ["a"], may_be_empty=["a"])

    with pytest.raises(InputError, match="row 1: `a` must be a text"):
        check_rows("X", [{"a": 1}], ["a"], may_be_empty=["a"])


def test_no_rows_are_an_error():
    with pytest.raises(InputError, match=r"^X has no rows\.$"):
        check_rows("X", [], ["a"])


def test_texts_are_long_enough_at_the_length_that_is_said():
    rows = [{"text": "abc"}, {"text": "ab"}, {"text": "abcd"}]

    assert long_texts("X", rows, 3) == ["abc", "abcd"]


def test_that_no_text_is_long_enough_is_an_error():
    with pytest.raises(InputError, match=r"^X: none of its 1 texts has 3 characters; take a small"):
        long_texts("X", [{"text": "ab"}], 3)
    with pytest.raises(InputError, match="X, row 2: `text` must be a text, not None"):
        long_texts("X", [{"text": "abc"}, {}], 3)


WORDS = ["ash", "beech", "cedar", "elm", "fir", "oak", "pine", "yew"]


def test_the_least_hashes_are_taken_in_the_order_of_the_items():
    hashes = sorted(WORDS, key=lambda word: hashlib.sha256(word.encode()).hexdigest())

    taken = sample_positions(WORDS, 3)

    assert taken == sorted(taken)
    assert {WORDS[place] for place in taken} == set(hashes[:3])


@given(st.permutations(WORDS), st.integers(0, 10))
def test_the_order_of_the_items_decides_nothing(shuffled, number):
    taken = {shuffled[place] for place in sample_positions(shuffled, number)}

    assert taken == {WORDS[place] for place in sample_positions(WORDS, number)}
    assert len(taken) == min(number, 8)


def test_each_group_gives_its_share():
    """4 of 12: a third of groups of 6, 3 and 3, that is 2, 1 and 1."""
    groups = ["a"] * 6 + ["b"] * 3 + ["c"] * 3

    taken = sample_positions([f"{group} {n}" for n, group in enumerate(groups)], 4, groups)

    assert sorted(groups[place] for place in taken) == ["a", "a", "b", "c"]


def test_a_group_that_is_too_small_for_a_share_gives_nothing():
    """3 of 7: of groups of 6 and 1 that is 2.6 and 0.4 items, 3 and 0 whole ones."""
    taken = sample_positions([f"item {n}" for n in range(7)], 3, ["a"] * 6 + ["b"])

    assert len(taken) == 3
    assert 6 not in taken


def _asked(word: str) -> Question:
    return Question(word, [], -1, "", "forget", "test")


def test_questions_keep_their_order_and_so_many_select():
    asked = [_asked(word) for word in WORDS]

    split = split_questions(asked, 3)

    assert [question.question for question in split] == WORDS
    selecting = [place for place, question in enumerate(split) if question.part == "selection"]
    assert selecting == sample_positions(WORDS, 3)


def test_what_is_worded_as_one_that_selects_is_not_reported():
    """All eight words twice. The three least hashes are both copies of the first word and one of
    the second, whose other copy is asked no more: 6 words are left to report, twice each.
    """
    split = split_questions([_asked(word) for word in WORDS * 2], 3)

    selecting = [question.question for question in split if question.part == "selection"]
    reported = [question.question for question in split if question.part == "test"]
    assert (len(selecting), len(set(selecting)), len(reported)) == (3, 2, 12)
    assert set(reported) == set(WORDS) - set(selecting)


@given(st.lists(st.sampled_from(["a", "bc", "d."]), max_size=40), st.integers(1, 12))
def test_even_pieces_hold_all_words_and_differ_by_one_at_most(words, most):
    """As few pieces as can be: n words in pieces of m at most are n / m of them, rounded up."""
    pieces = [piece.split() for piece in even_pieces(" ".join(words), most)]

    assert [word for piece in pieces for word in piece] == words
    assert len(pieces) == -(-len(words) // most)
    lengths = {len(piece) for piece in pieces}
    assert max(lengths, default=0) <= most
    assert max(lengths, default=0) - min(lengths, default=0) <= 1


def test_a_piece_keeps_the_space_between_its_words():
    assert even_pieces("One\n\ntwo  three four. ", 2) == ["One\n\ntwo", "three four."]


def test_what_a_dense_model_said_may_be_short_but_not_empty():
    assert [text.text for text in general_passages([{"text": "Yes."}], 3, "sampled")] == ["Yes."]

    with pytest.raises(InputError, match=r"^sampled_apart, row 2: `text` must be a text"):
        general_passages([{"text": "Yes."}, {"text": ""}], 3, "sampled")
