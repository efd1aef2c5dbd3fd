"""Parts of everything: the paper's own baselines."""

from __future__ import annotations

import pytest

from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.unlearning.scopes import everything, part_of
from tests.tiny import tiny_model


def test_everything_is_everything(model):
    whole, first = part_of(model, None, None)

    assert set(whole) == {name for name, _ in model.named_parameters()}
    assert first == 0


def test_experts_and_routers_make_up_their_union_and_nothing_else(model):
    parts = {only: set(part_of(model, only, None)[0]) for only in ("experts", "routers")}
    both, first = part_of(model, "experts_and_routers", None)

    assert set(both) == parts["experts"] | parts["routers"]
    assert not parts["experts"] & parts["routers"]
    assert sum(p.numel() for p in both.values()) == sum(
        p.numel()
        for layer in moe_layers(model)
        for module in (layer.experts, layer.router)
        for p in module.parameters()
    )
    assert first == moe_layers(model)[0].index


def test_chosen_layers_are_trained_from_the_first_on():
    """deepseek_v2 here has a dense layer 0 and MoE layers 1 and 2."""
    model = tiny_model("deepseek_v2")

    experts, first = part_of(model, "experts", [0, 2])

    assert {name.split(".")[2] for name in experts} == {"2"}
    assert first == 2
    assert part_of(model, None, [0, 2])[1] == 0


def test_a_part_leaves_the_rest_without_gradients():
    model = tiny_model("qwen2_moe")

    with everything(model, "experts", [1]) as scope:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}

    assert trained == set(scope.whole) == set(part_of(model, "experts", [1])[0])
    assert scope.first_layer == 1


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="there is no layer 9"):
        part_of(tiny_model("qwen2_moe"), "experts", [9])


def test_dense_layers_have_no_experts():
    with pytest.raises(InputError, match=r"Layers \[0\] have no experts: MoE layers are \[1, 2\]"):
        part_of(tiny_model("deepseek_v2"), "experts", [0])
