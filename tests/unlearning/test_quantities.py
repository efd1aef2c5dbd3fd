"""What objectives are fed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.errors import InputError
from seuf.moe.loss import token_nll
from seuf.moe.models import LanguageModel
from seuf.moe.prefix import hidden_after
from seuf.unlearning.anchor import Anchor, anchor_for
from seuf.unlearning.quantities import Quantities, Samples, draws, steering_vector
from tests.tiny import hook_count, tiny_samples

SAMPLES = Samples(tiny_samples(5), tiny_samples(7, seed=1))
NO_ANCHOR = Anchor([], [], "softmax")


def run_of(language_model: LanguageModel, *needed: str, anchor: Anchor = NO_ANCHOR) -> Quantities:
    """Return the quantities of three steps of two samples."""
    return Quantities(
        language_model,
        SAMPLES,
        draws(SAMPLES, 3, 2, seed=0),
        layer=0,
        steering=torch.ones(32),
        anchor=anchor,
        needed=set(needed),
    )


def some(count: int) -> list[list[int]]:
    """Return so many samples of two tokens."""
    return [[1, 2]] * count


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 5))
def test_every_epoch_draws_each_sample_once(forget, retain, steps, batch_size):
    drawn = draws(Samples(some(forget), some(retain)), steps, batch_size, seed=3)

    assert len(drawn) == steps
    for name, count in (("forget", forget), ("retain", retain)):
        order = [position for draw in drawn for position in getattr(draw, name)]
        assert len(order) == steps * batch_size
        for start in range(0, len(order) - count + 1, count):
            assert sorted(order[start : start + count]) == list(range(count))


@given(st.integers(0, 50))
def test_draws_are_decided_by_the_seed(seed):
    samples = Samples(some(40), some(40))

    one, same, other = (draws(samples, 5, 8, s) for s in (seed, seed, seed + 1))

    assert one == same
    assert one != other
    assert [draw.forget for draw in one] != [draw.retain for draw in one]


def test_more_steps_begin_with_the_same_draws():
    samples = Samples(some(5), some(7))

    assert draws(samples, 9, 2, 0)[:4] == draws(samples, 4, 2, 0)


@pytest.mark.parametrize(
    ("forget", "retain", "name"), [([], [[1, 2]], "forget"), ([[1, 2]], [], "retain")]
)
def test_an_empty_set_is_refused(forget, retain, name):
    with pytest.raises(InputError, match=f"The {name} set has no sample"):
        Samples(forget, retain)


@torch.no_grad()
def test_references_are_of_the_original_model(language_model):
    """The head is set to zero afterwards, so that every token costs log 300."""
    model = language_model.model
    run = run_of(language_model, "forget_reference_nll")
    batch = run.at(1).forget
    original, _ = token_nll(model, batch)

    model.get_output_embeddings().weight.zero_()

    step = run.at(1)
    assert torch.equal(step.forget_reference_nll, original.sum(1))
    predicted = batch.attention_mask[:, 1:].sum(1)
    torch.testing.assert_close(step.forget_nll.sums(), predicted * torch.tensor(300.0).log())


@torch.no_grad()
def test_reference_activations_are_of_the_original_model(language_model):
    run = run_of(language_model, "retain_reference_hidden")
    original = hidden_after(language_model.model, 0, run.at(2).retain)

    language_model.model.get_input_embeddings().weight.mul_(2)

    step = run.at(2)
    assert torch.equal(step.retain_reference_hidden, original)
    assert not torch.equal(step.retain_hidden.values, original)


@torch.no_grad()
def test_reference_activations_of_a_bfloat16_model_are_kept_in_it_and_given_in_float32(
    language_model,
):
    language_model.model.bfloat16()

    run = run_of(language_model, "retain_reference_hidden")

    assert run.references["retain_reference_hidden"][0].dtype == torch.bfloat16
    step = run.at(0)
    assert step.retain_reference_hidden.dtype == torch.float32
    assert torch.equal(step.retain_reference_hidden, step.retain_hidden.values)


def test_nothing_is_computed_that_is_not_needed(language_model):
    assert run_of(language_model, "forget_nll", "steering").references == {}


def test_a_quantity_is_computed_once_a_step(language_model):
    step = run_of(language_model).at(0)

    assert step.forget_nll is step.forget_nll
    assert step.retain_hidden is step.retain_hidden


def test_padding_does_not_count(language_model):
    step = run_of(language_model).at(0)

    assert torch.equal(step.forget_hidden.mask, step.forget.attention_mask.bool())
    assert torch.equal(step.forget_nll.mask, step.forget.attention_mask[:, 1:].bool())


@pytest.mark.parametrize("quantity", ["forget_nll", "forget_hidden"])
def test_the_anchor_watches_forget_passes_only(language_model, quantity):
    anchor = anchor_for(language_model.model, [(0, 1)], "softmax")
    step = run_of(language_model, anchor=anchor).at(0)
    hooks = hook_count(language_model.model)

    getattr(step, quantity)
    watched = anchor.loss()
    _ = step.retain_nll, step.retain_hidden

    assert watched.requires_grad
    assert torch.equal(anchor.loss(), watched)
    assert hook_count(language_model.model) == hooks


@given(st.integers(1, 64), st.floats(0.5, 1000), st.integers(0, 9))
def test_the_steering_vector_has_its_length_and_no_negative_part(size, length, seed):
    vector = steering_vector(size, length, seed)

    assert vector.norm().item() == pytest.approx(length, rel=1e-4)
    assert (vector >= 0).all()
    assert torch.equal(vector, steering_vector(size, length, seed))


def test_another_seed_steers_elsewhere():
    assert not torch.equal(steering_vector(8, 1.0, 0), steering_vector(8, 1.0, 1))
