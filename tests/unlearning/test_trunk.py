"""What lies below the trained layer is computed once, and nothing else changes."""

from typing import Any

import pytest
import torch

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import Batch
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import batch_nll
from seuf.unlearning.algorithm import unlearn
from seuf.unlearning.draws import Samples
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.treatment import Treatment
from seuf.unlearning.trunk import Trunk
from tests.tiny import last_layer, little_memory, tiny_samples
from tests.unlearning.runs import SETTINGS, FirstIsWorst, method

SAMPLES = tiny_samples(5)


@pytest.fixture
def base(model, language_model) -> LanguageModel:
    """Every architecture, with some tokenizer."""
    return LanguageModel(model, language_model.tokenizer)


def trunk_of(base: LanguageModel, cached: bool) -> Trunk:
    """Return the trunk of a model whose last layer will be trained."""
    return Trunk(base, SAMPLES, last_layer(base.model), range(5), batch_size=2, cached=cached)


@torch.no_grad()
def test_losses_and_activations_are_the_same_with_and_without_the_cache(base):
    with_cache, without = trunk_of(base, True), trunk_of(base, False)
    last = last_layer(base.model)

    nll, plain = with_cache.nll(with_cache.rows([3, 1])), without.nll(without.rows([3, 1]))
    torch.testing.assert_close(nll.values, plain.values, rtol=1e-5, atol=1e-5)
    one, other = (t.hidden(t.rows([3, 1]), last) for t in (with_cache, without))
    torch.testing.assert_close(one.values[one.mask], other.values[other.mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_layers_below_do_not_run_again(base):
    trunk, ran = trunk_of(base, True), []
    first = next(decoder(base.model).layers[0].children())
    first.register_forward_pre_hook(lambda module, args: ran.append(1))

    trunk.nll(trunk.rows([0, 4]))

    assert ran == []


@torch.no_grad()
def test_reference_sums_are_of_each_sample_alone(base):
    trunk = trunk_of(base, True)

    sums = trunk.nll_sums(range(5))

    for position, sample in enumerate(SAMPLES):
        ids = torch.tensor([sample])
        nll, _ = batch_nll(base.model, Batch(ids, torch.ones_like(ids)))
        torch.testing.assert_close(sums[position], nll.sum(), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_nothing_is_cached_below_the_first_layer(base):
    assert Trunk(base, SAMPLES, 0, range(5), batch_size=2).states is None


def trained(base: LanguageModel, samples: Samples, objective: str, **settings: Any):
    """Return what a short run makes of the last layer's expert 2."""
    experts = [(last_layer(base.model), 2)]
    shared = SETTINGS.model_copy(update={"steps": 20, "evaluate_every": 10, **settings})
    treatment = Treatment(samples, experts, method(objective=objective), shared, seed=0)
    return unlearn(base, treatment, FirstIsWorst()).delta.tensors


@pytest.mark.parametrize("objective", ["gdiff", "rmu"])
def test_twenty_steps_give_the_same_weights_with_and_without_the_cache(base, objective):
    """One objective takes losses from the cache, one activations."""
    _same_with_and_without_the_cache(base, objective)


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {"gdiff", "rmu"}))
def test_so_they_do_with_each_other_objective(language_model, objective):
    _same_with_and_without_the_cache(language_model, objective)


def _same_with_and_without_the_cache(base: LanguageModel, objective: str) -> None:
    """Compare to rounding: a sample's hidden state was computed beside other samples."""
    samples = Samples(tiny_samples(5), tiny_samples(5, seed=1))

    one, other = (trained(base, samples, objective, prefix_cache=c) for c in (True, False))

    assert one.keys() == other.keys()
    for key, tensor in one.items():
        # AdamW turns a gradient of nearly nothing into a whole step: few weights may differ
        close = torch.isclose(tensor, other[key], rtol=1e-3, atol=1e-4)
        assert close.float().mean() > 0.98


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {"npo", "rmu"}))
def test_where_the_arithmetic_is_the_same_the_weights_are_the_same_to_the_bit(
    language_model, objective
):
    """Samples of one length, as many as a step takes: each pass holds the same rows.

    Not so with NPO and RMU: a reference pass holds one sample alone, a step's pass two.
    """
    rows = tiny_samples(4, longest=3)
    samples = Samples([rows[0]], [rows[1]])
    common = {"batch_size": 1, "steps": 20}

    one, other = (
        trained(language_model, samples, objective, prefix_cache=c, **common) for c in (True, False)
    )

    assert moe_layers(language_model.model)[-1].index == 1
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_samples_that_do_not_fit_pass_in_parts_before_the_first_step(language_model):
    """All 5 fail once, in the first of three passes; the others begin with the smaller size."""
    last = last_layer(language_model.model)

    def before_training() -> list[torch.Tensor]:
        trunk = Trunk(language_model, SAMPLES, last, range(5), batch_size=5)
        sums, hidden = trunk.nll_sums(range(5)), trunk.hidden_states(range(5), last)
        return [torch.stack([sums[n] for n in range(5)]), hidden.rows, trunk.states.rows]

    whole = before_training()
    with little_memory(language_model.model, rows=2) as failed:
        parts = before_training()

    assert failed == [5]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_sample_that_does_not_fit_is_too_long(language_model):
    with (
        little_memory(language_model.model, rows=0),
        pytest.raises(InputError, match=r"lower unlearning\.max_length"),
    ):
        Trunk(language_model, SAMPLES, 1, range(5), batch_size=2).nll_sums(range(5))
