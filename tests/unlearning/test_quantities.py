"""What objectives are fed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.moe.loading import LanguageModel
from seuf.unlearning.draws import Samples, draws, used_by
from seuf.unlearning.objectives import Anchor, anchor_for
from seuf.unlearning.quantities import Quantities, steering_vector
from seuf.unlearning.trunk import Trunk
from tests.tiny import hook_count, tiny_samples

SAMPLES = Samples(tiny_samples(5), tiny_samples(7, seed=1))
NO_ANCHOR = Anchor([], [], "softmax")


def run_of(language_model: LanguageModel, *needed: str, anchor: Anchor = NO_ANCHOR) -> Quantities:
    """Return the quantities of three steps of two samples."""
    steps = draws(SAMPLES, 3, 2, seed=0)
    return Quantities(
        Trunk(language_model, SAMPLES.both(), 0, used_by(steps, set(needed)), batch_size=2),
        steps,
        layer=0,
        steering=torch.ones(32),
        anchor=anchor,
        needed=set(needed),
    )


@torch.no_grad()
def test_references_are_of_the_original_model(language_model):
    """The head is set to zero afterwards, so that every token costs log 300."""
    run = run_of(language_model, "forget_nll", "forget_reference_nll")
    original = run.at(run.feed(1)).forget_nll.sums()

    language_model.model.get_output_embeddings().weight.zero_()

    step = run.at(run.feed(1))
    predicted = step.forget_nll.mask.sum(1)
    torch.testing.assert_close(step.forget_reference_nll, original)
    torch.testing.assert_close(step.forget_nll.sums(), predicted * torch.tensor(300.0).log())


@torch.no_grad()
def test_reference_activations_are_of_the_original_model(language_model):
    """Those of padding are zero; it does not count."""
    run = run_of(language_model, "forget_hidden", "retain_hidden", "retain_reference_hidden")
    hidden, mask = run.at(run.feed(2)).retain_hidden

    language_model.model.get_input_embeddings().weight.mul_(2)

    step = run.at(run.feed(2))
    torch.testing.assert_close(step.retain_reference_hidden, hidden * mask[..., None])
    assert step.retain_hidden.distance(step.retain_reference_hidden) > 0.01


@torch.no_grad()
def test_reference_activations_of_a_bfloat16_model_are_kept_in_it(language_model):
    language_model.model.bfloat16()

    run = run_of(language_model, "forget_hidden", "retain_hidden", "retain_reference_hidden")

    assert run.hidden.rows.dtype == torch.bfloat16
    step = run.at(run.feed(0))
    assert step.retain_reference_hidden.dtype == torch.bfloat16
    assert step.retain_hidden.distance(step.retain_reference_hidden) < 1e-3


def test_nothing_is_computed_that_is_not_needed(language_model):
    run = run_of(language_model, "forget_nll", "steering")

    assert run.sums == {}
    assert run.hidden is None
    assert len(run.feed(0).rows.input_ids) == 2


def test_both_sets_pass_the_model_together_and_once_a_step(language_model, monkeypatch):
    passes = []
    inner = Trunk.nll
    monkeypatch.setattr(Trunk, "nll", lambda self, b: (passes.append(len(b[0])), inner(self, b))[1])
    run = run_of(language_model, "forget_nll", "retain_nll")
    step = run.at(run.feed(0))

    _ = step.forget_nll, step.retain_nll, step.forget_nll

    assert passes == [4]


@pytest.mark.parametrize("kind", ["nll", "hidden"])
def test_each_set_has_its_own_part_of_the_pass(language_model, kind):
    """As if each had passed alone, but for the padding to the longest of both."""
    run = run_of(language_model, f"forget_{kind}", f"retain_{kind}")
    step = run.at(run.feed(0))

    for name in ("forget", "retain"):
        rows = run.trunk.rows(getattr(run.draws[0], name))
        alone = run.trunk.nll(rows) if kind == "nll" else run.trunk.hidden(rows, 0)
        part, width = getattr(step, f"{name}_{kind}"), alone.mask.shape[1]
        assert torch.equal(part.mask[:, :width], alone.mask)
        assert not part.mask[:, width:].any()
        torch.testing.assert_close(
            part.values[:, :width][alone.mask], alone.values[alone.mask], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["nll", "hidden"])
def test_the_anchor_watches_tokens_to_forget_only(language_model, kind):
    losses = []
    for needed in ([f"forget_{kind}"], [f"forget_{kind}", f"retain_{kind}"]):
        anchor = anchor_for(language_model.model, [(0, 1)], "softmax")
        hooks = hook_count(language_model.model)
        run = run_of(language_model, *needed, anchor=anchor)
        step = run.at(run.feed(0))

        getattr(step, f"forget_{kind}")
        losses.append(anchor.loss())

        assert losses[-1].requires_grad
        assert hook_count(language_model.model) == hooks
    torch.testing.assert_close(*losses)


@given(st.integers(1, 64), st.floats(0.5, 1000), st.integers(0, 9))
def test_the_steering_vector_has_its_length_and_no_negative_part(size, length, seed):
    vector = steering_vector(size, length, seed)

    assert vector.norm().item() == pytest.approx(length, rel=1e-4)
    assert (vector >= 0).all()
    assert torch.equal(vector, steering_vector(size, length, seed))


def test_another_seed_steers_elsewhere():
    assert not torch.equal(steering_vector(8, 1.0, 0), steering_vector(8, 1.0, 1))
