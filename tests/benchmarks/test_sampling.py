"""Rows of published data sets."""

import pytest

from seuf.benchmarks.sampling import check_rows, long_texts
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
