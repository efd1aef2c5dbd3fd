"""All numbers of a model by name. PrivLeak, both ways that it is counted."""

from __future__ import annotations

import pytest

from seuf.benchmarks.measures import beside, measures, privleak, privleak_of_muse
from seuf.benchmarks.records import Question

ANSWERED = {"value": 0.25, "standard_error": 0.1}
HALF = {"value": 0.5, "standard_error": 0.1}


def question(topic: str) -> Question:
    """Return a retain question with choices."""
    return Question("Q", ["a", "b"], 0, topic, "retain", "test")


def test_free_answers_are_named_by_subject_and_kind():
    generation = {"forget": {"answer": ANSWERED, "fill_blank": ANSWERED}}

    assert measures({"generation": generation}, []) == {
        "rouge_forget": ANSWERED,
        "rouge_forget_fill_blank": ANSWERED,
    }


def test_the_measure_that_is_not_the_headline_stands_beside_it():
    """The headline of forget is the produced answers, that of retain the choices."""
    nll = {"value": 2.0, "standard_error": 0.2}
    scores = {
        "headline": {"forget": {"measure": "exact"}, "retain": {"measure": "accuracy"}},
        "questions": {
            "forget": {"accuracy": 0.75, "standard_error": 0.1},
            "retain": {"accuracy": 0.5, "standard_error": 0.1},
        },
        "produced": {
            "forget": {"measure": "exact", **HALF, "nll": nll},
            "retain": {"measure": "whole", **ANSWERED, "nll": nll},
        },
    }

    assert measures(scores, []) == {
        "choices_forget": {"value": 0.75, "standard_error": 0.1},
        "nll_forget": nll,
        "produced_retain": ANSWERED,
        "nll_retain": nll,
    }


def test_choices_of_a_kind_that_stands_apart_have_a_column():
    scored = {"accuracy": 0.5, "standard_error": 0.1}
    scores = {
        "headline": {"forget": {"measure": "accuracy"}},
        "questions": {"forget": scored, "related_facts": scored},
    }

    assert measures(scores, []) == {"choices_related_facts": HALF}


def test_the_mean_over_topics_is_told_where_topics_differ_in_size():
    scores = {"questions": {"retain": {"macro_accuracy": 0.5}}}

    uneven = [question("law"), question("law"), question("art")]

    assert measures(scores, uneven) == {"macro_retain": {"value": 0.5, "standard_error": None}}
    assert measures(scores, uneven[1:]) == {}


def truth(*ratios: float) -> dict[str, object]:
    """Return the scores of a set of TOFU."""
    number = {"value": 0.5, "standard_error": 0.1}
    return {"probability": number, "truth_ratio_geometric": {**number, "ratios": list(ratios)}}


def membership(auc: float, *others: str) -> dict[str, object]:
    """Return scores of membership inference."""
    value = {"min_k": {"value": auc, "standard_error": 0.1}}
    return {"membership": {"auc": dict.fromkeys(others or ("holdout",), value)}}


def test_model_utility_needs_all_nine_numbers():
    """All nine are 0.5, but ROUGE of the retain set, 0.25: 9 / (8 / .5 + 1 / .25) = 0.45."""
    kinds = {"answer": ANSWERED, "real_authors": HALF, "world_facts": HALF}
    sets = {name: truth() for name in ("retain", "real authors", "world facts")}

    told = measures({"truth": sets, "generation": {"retain": kinds}}, [])

    assert told["model_utility"] == {"value": pytest.approx(0.45), "standard_error": None}
    fewer = {"truth": sets, "generation": {"retain": {"answer": ANSWERED}}}
    assert "model_utility" not in measures(fewer, [])


def test_forget_quality_is_told_beside_the_reference_alone():
    """The same ratios cannot be told apart: p is 1. Without any overlap it is the smallest there
    is for three against three: 2 of the 20 ways to choose 3 of 6.
    """
    scores = {"truth": {"forget": truth(0.1, 0.2, 0.3)}}

    assert "forget_quality" not in measures(scores, [])
    assert measures(scores, [])["truth_ratio_forget"] == {"value": 0.5, "standard_error": 0.1}
    assert beside(scores, scores)["forget_quality"]["value"] == 1
    other = {"truth": {"forget": truth(0.7, 0.8, 0.9)}}
    assert beside(scores, other)["forget_quality"]["value"] == pytest.approx(0.1)


def test_privleak_is_told_beside_the_reference_alone():
    """As MUSE counts, the AUCs are .25 and .5: (.25 - .5) / .5 = -50 %."""
    scores, reference = membership(0.75), membership(0.5)

    assert measures(scores, []) == {"auc_min_k": {"value": 0.75, "standard_error": 0.1}}
    assert beside(scores, reference) == {
        "privleak": {"value": pytest.approx(-50.0), "standard_error": None}
    }


def test_without_texts_that_were_never_seen_those_that_are_kept_stand_in():
    both, one = membership(0.75, "holdout", "retain"), membership(0.75, "retain")

    assert list(measures(both, [])) == ["auc_min_k"]
    assert list(measures(one, [])) == ["auc_min_k_retain"]
    assert beside(one, one) == {}


def test_beside_a_reference_that_was_not_measured_nothing_is_told():
    assert beside(membership(0.75), {}) == beside({}, membership(0.75)) == {}


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
