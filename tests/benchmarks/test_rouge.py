"""Three published variants of one measure."""

from __future__ import annotations

import pytest

from seuf.benchmarks.answers import MEASURES, rouge_l_f1, rouge_l_recall, rouge_l_recall_pltrdy
from seuf.benchmarks.records import ANSWER_KINDS


def test_recall_is_the_share_of_the_reference_in_order():
    """Of 'the cat sat down' the answer has 'the', 'cat', 'down' in this order: 3/4. What it says
    beyond that costs nothing.
    """
    answer = "the black cat is down, and the dog too"

    assert rouge_l_recall("the cat sat down", answer) == 0.75


def test_words_are_compared_by_their_stems():
    """'apples' and 'falling' have the stems of 'apple' and 'falls': 2 of 3."""
    assert rouge_l_recall("red apple falls", "apples falling") == pytest.approx(2 / 3)


def test_an_empty_answer_recalls_nothing():
    assert rouge_l_recall("red apple", "") == 0


def test_f1_pays_for_what_is_said_beyond_the_reference():
    """Of 2 words in the reference 1 is there, of 4 in the answer 1 counts: 2 * .5 * .25 / .75."""
    assert rouge_l_f1("red apple", "a red old car") == pytest.approx(1 / 3)


def test_f1_compares_words_as_they_are():
    assert rouge_l_f1("apples", "apple") == 0


def test_the_variant_of_rwku_splits_at_spaces_only():
    """The other variants drop the comma."""
    assert rouge_l_recall_pltrdy("Paris", "Paris, France") == 0
    assert rouge_l_recall("Paris", "Paris, France") == 1
    assert rouge_l_recall_pltrdy("the cat sat down", "the cat is down") == pytest.approx(0.75)


@pytest.mark.parametrize("answer", ["", " ", "...", "\n"])
def test_an_answer_without_a_word_recalls_nothing(answer):
    """The package itself would raise an error."""
    assert rouge_l_recall_pltrdy("red apple", answer) == 0


def test_every_kind_of_probe_has_its_measure():
    assert {kind.measure for kind in ANSWER_KINDS.values()} == set(MEASURES)
