"""Eq. 3: what holds the router still."""

import pytest
import torch

from seuf.moe.architectures import gate_probabilities, moe_layers
from seuf.moe.routing import observed_routers
from seuf.unlearning.anchor import Anchor, anchor_loss
from tests.tiny import TOP_K, hook_count, inputs_of, tiny_batch, tiny_inputs, tiny_model

ALL = torch.tensor([True, True])
CPU = torch.device("cpu")


def anchor_target(experts: list[int], **target: str) -> torch.Tensor:
    """Return the target of an anchor on experts of layer 0: a of Eq. 3."""
    return Anchor(tiny_model("mixtral"), [(0, expert) for expert in experts], **target).targets[0]


def test_the_loss_is_the_squared_distance_to_the_target():
    """(.6 .3 .1) from (1 0 0): .16 + .09 + .01 = .26; (1 0 0) is there already: mean .13."""
    gates = torch.tensor([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0]])

    assert anchor_loss(gates, torch.tensor([1.0, 0.0, 0.0]), ALL).item() == pytest.approx(0.13)


def test_the_target_of_several_experts_is_one_on_each_of_them_as_in_eq_3():
    assert anchor_target([2]).tolist() == [0, 0, 1, 0]
    assert anchor_target([3, 0]).tolist() == [1, 0, 0, 1]


def test_or_they_share_the_one():
    assert anchor_target([2], target="share").tolist() == [0, 0, 1, 0]
    assert anchor_target([3, 0], target="share").tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize(("target", "expected"), [("one", 0.94), ("share", 0.14)])
def test_the_anchor_of_two_experts(target, expected):
    """Let g be (.5 .2 .2 .1). From (1 1 0 0): .25 + .64 + .04 + .01; from (.5 .5 0 0) .09 + .05."""
    gates = torch.tensor([[0.5, 0.2, 0.2, 0.1]])

    loss = anchor_loss(gates, anchor_target([0, 1], target=target), ALL[:1])

    assert loss.item() == pytest.approx(expected)


def test_without_experts_there_is_no_anchor():
    anchor = Anchor(tiny_model("mixtral"), [], "softmax")

    with anchor.watching(ALL):
        pass

    assert anchor.loss(CPU).item() == 0.0


def test_padding_does_not_count():
    gates = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.0, 1.0]])

    assert anchor_loss(
        gates, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([True, False])
    ).item() == pytest.approx(0.26)


def token_gradient(probabilities: list[float], target: int, keep: int) -> torch.Tensor:
    """Return the loss's gradient by one token's logits, with all but `keep` gates set to zero."""
    logits = torch.tensor([probabilities]).log().requires_grad_()
    gates = logits.softmax(-1)
    chosen = torch.zeros_like(gates).scatter_(1, gates.topk(keep).indices, 1.0)
    anchor_loss(gates * chosen, torch.eye(3)[target], ALL[:1]).backward()
    return logits.grad[0]


def test_a_token_sent_elsewhere_is_pulled_to_the_target_by_the_softmax_and_hardly_by_top_k():
    """Let s = (.5 .3 .2) and the target be 2, with ds_i/dz_2 = s_i (delta_i2 - s_2).

    Softmax: 2 * .2 * (2 * .2 - 1 - (.25 + .09 + .04)) = -.392. Top 1: 2 * .5 * (-.5 * .2) = -.1.
    """
    assert token_gradient([0.5, 0.3, 0.2], 2, keep=3)[2].item() == pytest.approx(-0.392)
    assert token_gradient([0.5, 0.3, 0.2], 2, keep=1)[2].item() == pytest.approx(-0.1)


def watched(on: str, target: int) -> torch.Tensor:
    """Return mixtral's router gradient from the anchor on the tokens not sent to the target."""
    model = tiny_model("mixtral")
    layer, batch, seen = moe_layers(model)[0], tiny_batch(), []
    with torch.no_grad(), observed_routers([layer], lambda p, output: seen.append(output[2])):
        model(**inputs_of(batch))
    elsewhere = (seen[0] != target).all(-1).view_as(batch.input_ids) & batch.attention_mask.bool()

    anchor = Anchor(model, [(0, target)], on)
    with anchor.watching(elsewhere):
        model(**inputs_of(batch))
    anchor.loss(CPU).backward()

    return next(layer.router.parameters()).grad[target]


def test_on_mixtral_top_k_moves_the_targets_row_less_than_the_softmax():
    """The same tokens, none of them sent to the target."""
    assert 0 < watched("topk", 1).norm() < watched("softmax", 1).norm() / 2


@pytest.mark.parametrize("on", ["softmax", "topk"])
def test_what_is_measured_is_the_layer_of_the_expert(model, on):
    """Recomputed from the logits seen beside it."""
    layer, batch, seen = moe_layers(model)[-1], tiny_batch(), []
    anchor = Anchor(model, [(layer.index, 2)], on)

    with (
        observed_routers([layer], lambda p, output: seen.append(output)),
        anchor.watching(batch.attention_mask.bool()),
    ):
        model(**inputs_of(batch))

    gates, chosen = gate_probabilities(layer, seen[0]), seen[0][2]
    if on == "topk":
        gates = gates.masked_fill(~torch.nn.functional.one_hot(chosen, 4).sum(1).bool(), 0.0)
        assert ((gates > 0).sum(-1) == TOP_K).all()
    expected = anchor_loss(gates, torch.eye(4)[2], batch.attention_mask.flatten().bool())
    torch.testing.assert_close(anchor.loss(CPU), expected)


def test_layers_are_averaged_and_each_has_its_own_targets(model):
    first, last = (layer.index for layer in moe_layers(model))
    losses = []

    for experts in ([(first, 0), (first, 1)], [(last, 3)], [(last, 3), (first, 0), (first, 1)]):
        anchor = Anchor(model, experts, "softmax")
        with anchor.watching(tiny_batch().attention_mask.bool()):
            model(**tiny_inputs())
        losses.append(anchor.loss(CPU))

    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)


def test_only_the_last_pass_is_kept_and_no_hook_is_left(model):
    index, hooks = moe_layers(model)[0].index, hook_count(model)
    anchor, fresh = (Anchor(model, [(index, 0)], "softmax") for _ in range(2))

    for seed in (1, 2):
        with anchor.watching(tiny_batch(seed=seed).attention_mask.bool()):
            model(**tiny_inputs(seed=seed))
    with fresh.watching(tiny_batch(seed=2).attention_mask.bool()):
        model(**tiny_inputs(seed=2))

    assert torch.equal(anchor.loss(CPU), fresh.loss(CPU))
    assert hook_count(model) == hooks
