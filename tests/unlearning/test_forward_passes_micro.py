"""A step in micro-batches has the loss and the gradient of the whole batch."""

from typing import Any

import pytest
import torch

from seuf.inputs import InputError
from seuf.moe.batches import Sample, Span, pack
from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import eq4_step, unlearn
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import NEEDS_WHOLE_BATCH, OBJECTIVES
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.settings import samples_at_once
from tests.tiny import little_memory, tiny_language_model, tiny_samples
from tests.unlearning.runs import EXPERTS, SETTINGS, FirstIsWorst, method

# One to three texts in a sample, of other lengths in each, and one with a prompt.
ASKED = Sample(range(5, 15), [Span(0, 6, 10)])
FORGET = [*pack(tiny_samples(9), 20)[:4], ASKED]
RETAIN = [*pack(tiny_samples(9, seed=1, longest=9), 16), [7, 8, 9]]
BATCH = SETTINGS.model_copy(update={"batch_size": 5, "steps": 1, "gradient_clip": 1e9})


def one_step(
    base: LanguageModel, at_once: int | None, scope: str = "experts", **row: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the gradients of one step by path, and the numbers that it tells."""
    of, experts = method(scope, **row), EXPERTS if scope == "experts" else []
    settings = BATCH.model_copy(update={"micro_batch_size": at_once})
    gradients: dict[str, torch.Tensor] = {}
    with open_scope(base.model, of, experts, seed=0) as opened, opened:
        passes = ForwardPasses(base, FORGET, RETAIN, of, settings, opened.first_layer, 1, seed=0)
        clear = opened.clear_gradients

        def keep_and_clear() -> None:
            gradients.update(
                {
                    name: one.grad.clone()
                    for name, one in opened.masters.items()
                    if one.grad is not None
                }
            )
            clear()

        opened.clear_gradients = keep_and_clear
        anchor = Anchor(base.model, experts, of.anchor_on)
        numbers = eq4_step(opened, passes, anchor, of, settings, 1e-3)(passes.batch(0))
        opened.clear_gradients = clear
    return gradients, numbers


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("at_once", [1, 2])
def test_every_objective_has_the_gradient_of_the_whole_batch(objective, at_once):
    """Five samples pass as 2, 2 and 1, or one by one; samples count by their tokens and texts."""
    whole, parts = (
        one_step(tiny_language_model(), size, objective=objective) for size in (None, at_once)
    )

    assert whole[0].keys() == parts[0].keys()
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("scope", "retain_loss"), [("everything", "kl"), ("lora", "kl"), ("experts", "trace")]
)
def test_so_it_is_for_every_scope_and_retain_loss(scope, retain_loss):
    whole, parts = (
        one_step(tiny_language_model(), size, scope, objective="npo", retain_loss=retain_loss)
        for size in (None, 2)
    )

    torch.testing.assert_close(parts[0], whole[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-4, atol=1e-6)


def test_a_mean_of_means_would_be_another_gradient(monkeypatch):
    """What the test above can tell apart: an objective that divides by its part alone."""
    monkeypatch.setitem(OBJECTIVES, "own", lambda forget_nll: -forget_nll.values.mean())

    whole, parts = (one_step(tiny_language_model(), n, objective="own") for n in (None, 2))

    assert parts[1][0] / whole[1][0] > 2


def test_a_batch_in_one_part_is_the_batch_to_the_bit():
    whole, same = (one_step(tiny_language_model(), size, objective="npo") for size in (None, 5))

    assert torch.equal(whole[1], same[1])
    assert all(torch.equal(tensor, same[0][name]) for name, tensor in whole[0].items())


def test_gradients_of_a_bfloat16_model_add_up_in_float32():
    """Each part's is rounded to 8 bits, their sum is not: it has more than 8 bits somewhere."""
    base = tiny_language_model()
    base.model.bfloat16()

    gradients, _ = one_step(base, 2, "everything", objective="gdiff")

    assert {tensor.dtype for tensor in gradients.values()} == {torch.float32}
    assert any((one != one.bfloat16().float()).any() for one in gradients.values())


@pytest.mark.parametrize("objective", ["gdiff", "rmu"])
def test_a_batch_that_does_not_fit_is_trained_on_in_parts(language_model, objective):
    """Ten rows at once would not fit, nor five; four do: two of each set."""
    settings = BATCH.model_copy(update={"micro_batch_size": 2, "steps": 2})
    of = method(objective=objective)

    with little_memory(language_model.model, rows=4):
        with pytest.raises(InputError, match=r"set unlearning\.micro_batch_size to fewer samples"):
            unlearn(language_model, FORGET, RETAIN, of, EXPERTS, FirstIsWorst(), BATCH)
        done = unlearn(language_model, FORGET, RETAIN, of, EXPERTS, FirstIsWorst(), settings)

    assert done.delta.tensors


def test_a_method_may_have_micro_batches_of_its_own():
    half = BATCH.model_copy(update={"micro_batch_size": 2})

    assert samples_at_once(method(), BATCH) == 5
    assert samples_at_once(method(), half) == 2
    assert samples_at_once(method(micro_batch_size=3), half) == 3
    assert samples_at_once(method(batch_size=1), half) == 1


def test_an_objective_that_needs_the_whole_batch_is_refused_in_parts(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "bent", lambda forget_nll: forget_nll.mean().square())
    NEEDS_WHOLE_BATCH.add("bent")
    bent = method(objective="bent")
    try:
        assert samples_at_once(bent, BATCH) == 5
        with pytest.raises(InputError, match="micro_batch_size is 2 and batch_size 5"):
            samples_at_once(bent, BATCH.model_copy(update={"micro_batch_size": 2}))
    finally:
        NEEDS_WHOLE_BATCH.discard("bent")
