"""Calibration samples, and how far a ranking can be trusted."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.unlearning.attribution import RoutingSettings, calibration_samples, capture, two_subsets
from tests.tiny import tiny_language_model


def samples(count: int, length: int = 100) -> list[list[int]]:
    """Return samples that tell their position: every token of sample i is i."""
    return [[i] * length for i in range(count)]


def test_fewer_than_a_thousand_tokens_are_refused():
    with pytest.raises(InputError, match="The forget set has 999 tokens; attribution needs at"):
        calibration_samples([[1] * 999], None, 0, "forget")


def test_a_thousand_tokens_are_enough_to_go_on():
    assert calibration_samples([[1] * 1000], None, 0, "forget") == [[1] * 1000]


@pytest.mark.parametrize("limit", [None, 2000, 5000])
def test_all_samples_are_taken_where_the_limit_allows_it(limit, caplog):
    assert calibration_samples(samples(20), limit, 0, "forget") == samples(20)
    assert caplog.text == ""


def test_a_part_below_a_hundred_thousand_tokens_is_warned_of(caplog):
    """Ten samples of 100 tokens are the fewest with at least 950."""
    with caplog.at_level(logging.WARNING):
        chosen = calibration_samples(samples(20), 950, 0, "retain")

    assert len(chosen) == 10
    assert "uses 1000 of the 2000 tokens of the retain set" in caplog.text
    assert "routing_capture.max_tokens" in caplog.text


def test_a_hundred_thousand_tokens_pass_without_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        chosen = calibration_samples(samples(30, 10_000), 100_000, 0, "forget")

    assert len(chosen) == 10
    assert caplog.text == ""


@given(st.integers(0, 99), st.integers(1, 3900))
def test_a_draw_is_deterministic_ordered_and_without_repetition(seed, limit):
    one, other = (calibration_samples(samples(40), limit, seed, "forget") for _ in range(2))

    positions = [sample[0] for sample in one]
    assert one == other
    assert positions == sorted(set(positions))
    assert limit <= len(positions) * 100 < limit + 100


def test_another_seed_draws_other_samples():
    draws = {str(calibration_samples(samples(40), 1000, seed, "forget")) for seed in range(5)}

    assert len(draws) == 5


@pytest.mark.parametrize("seed", range(5))
def test_two_subsets_share_nothing_and_each_has_its_tokens(seed):
    """Of samples of 100 tokens 250 need three; which of the 20 depends on the seed."""
    one, other = two_subsets(samples(20), 250, seed)

    assert len(one) == len(other) == 3
    assert not {*one} & {*other}
    assert [one, other] == two_subsets(samples(20), 250, seed)
    assert [one, other] != two_subsets(samples(20), 250, seed + 1)


def test_a_set_of_less_than_two_subsets_has_none():
    """5 of 100 tokens make two subsets of 200, but of 250 only one and a half."""
    assert len(two_subsets(samples(5), 200, seed=0)) == 2
    assert two_subsets(samples(5), 250, seed=0) == []


def test_all_of_a_long_text_is_captured_unless_it_is_to_be_cut(caplog):
    """Ten documents of more than 100 tokens have 1,000 together, in samples of 64 only 640."""
    base = tiny_language_model()
    texts = ["Ada lives in Oslo, and Bo keeps sheep. " * 40] * 10
    settings = RoutingSettings(max_length=64)

    assert capture(base, texts, settings, what="forget").affinity.isfinite().all()
    with pytest.raises(InputError, match="The forget set has 640 tokens; attribution needs at lea"):
        capture(base, texts, settings.model_copy(update={"long_texts": "cut"}), what="forget")
    assert "The forget set: 10 of 10 texts have more than 64 tokens and are cut" in caplog.text


def test_a_model_in_training_mode_is_refused(language_model):
    language_model.model.train()

    with pytest.raises(InputError, match=r"The model is in training mode: call model\.eval\(\)"):
        capture(language_model, ["Ada lives in Oslo."] * 300)
