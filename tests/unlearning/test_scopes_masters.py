"""The float32 masters that the optimizer works on, and how much is in training."""

import pytest
import torch
from torch import nn

from seuf.moe.loss import batch_nll
from seuf.unlearning.scopes import Scope, everything, selected_experts
from tests.tiny import tiny_batch, tiny_model


def test_a_float32_model_is_its_own_master():
    scope = selected_experts(tiny_model("qwen2_moe"), [(0, 0)])

    for place, master in scope.masters.items():
        assert master.data_ptr() == scope.trained[place].data_ptr()


def test_updates_too_small_for_bfloat16_add_up_in_the_float32_master():
    """At 1.0 bfloat16 steps by 2^-7 upwards: one update of 2^-10 is lost, eight make 2^-7."""
    layer = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(layer.weight)
    scope = everything(layer)

    weights = []
    with torch.no_grad():
        for _ in range(8):
            scope.masters["weight"] += 2**-10
            scope.write_back()
            weights.append(layer.weight.item())

    assert scope.masters["weight"].dtype == torch.float32
    assert weights[0] == 1.0
    assert weights[7] == 1.0 + 2**-7


def test_bfloat16_gradients_reach_the_masters_in_float32():
    scope = selected_experts(tiny_model("qwen2_moe").bfloat16(), [(0, 0)])
    with scope:
        values, mask = batch_nll(scope.model, tiny_batch())
        values[mask].mean().backward()

        masters = scope.gradients_to_masters()

        assert {master.grad.dtype for master in masters} == {torch.float32}


def test_trained_share_is_counted_by_hand():
    """Linear(3, 4): 12 of 12 + 4 parameters."""
    layer = nn.Linear(3, 4)

    assert Scope(layer, {"weight": layer.weight}).trained_share() == 12 / 16


@pytest.mark.parametrize(("router", "counted"), [("layer", 128), ("row", 32), ("none", 0)])
def test_trained_share_of_an_expert_counts_its_rows_and_the_routers(router, counted):
    """gate_up 2 * 16 x 32 and down 32 x 16 of the expert; of the router 4 x 32, 32 or nothing."""
    model = tiny_model("qwen2_moe")
    total = sum(parameter.numel() for parameter in model.parameters())

    scope = selected_experts(model, [(0, 1)], router)

    assert scope.trained_share() == pytest.approx((1024 + 512 + counted) / total)
