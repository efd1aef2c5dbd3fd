"""What a scope may change, and that nothing else does."""

import pytest
import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.loss import batch_nll
from seuf.unlearning.scopes import Deletion, Scope, everything, selected_experts
from tests.tiny import EXPERTS, bits, changed_names, hook_count, last_layer, tiny_batch, tiny_model

TARGET = 2


def train(scope: Scope, steps: int = 3, weight_decay: float = 0.0) -> None:
    """Take some steps within the scope, as the loop does."""
    optimizer = torch.optim.AdamW(scope.masters.values(), lr=1e-2, weight_decay=weight_decay)
    with scope:
        for step in range(steps):
            values, mask = batch_nll(scope.model, tiny_batch(seed=step))
            values[mask].mean().backward()
            scope.gradients_to_masters()
            optimizer.step()
            scope.write_back()
            scope.clear_gradients()


def rows_of(model: nn.Module) -> tuple[set[str], set[str]]:
    """Return the names of the last layer's expert tensors, and of its router's; a bias not."""
    layer = moe_layers(model)[-1]
    wanted = [{id(p) for p in module.parameters()} for module in (layer.experts, layer.router)]
    experts, router = (
        {name for name, p in model.named_parameters() if id(p) in ids and len(p) == EXPERTS}
        for ids in wanted
    )
    return experts, router


def changed_rows(now: Tensor, before: Tensor) -> list[int]:
    """Return which rows differ in any bit."""
    return [e for e in range(len(now)) if not torch.equal(now[e], before[e])]


@pytest.mark.parametrize("router", ["layer", "row", "none"])
def test_only_the_selected_expert_and_its_router_change(model, router):
    """Of the fused tensors the target's row; of the router all rows, its row, or none."""
    before, (experts, routers) = bits(model), rows_of(model)

    train(selected_experts(model, [(last_layer(model), TARGET)], router))

    assert changed_names(model, before) == experts | (routers if router != "none" else set())
    for name in experts:
        assert changed_rows(model.get_parameter(name), before[name]) == [TARGET]
    rows = {"layer": [0, 1, 2, 3], "row": [TARGET], "none": []}[router]
    for name in routers:
        assert changed_rows(model.get_parameter(name), before[name]) == rows


def test_experts_of_two_layers_train_their_own_routers(model):
    first, last = (layer.index for layer in moe_layers(model))
    before = bits(model)

    train(selected_experts(model, [(first, 0), (last, 3)], "row"))

    for index, target in ((first, 0), (last, 3)):
        for name in changed_names(model, before):
            if f".layers.{index}." in name:
                assert changed_rows(model.get_parameter(name), before[name]) == [target]
    assert {
        f".layers.{index}." in n for n in changed_names(model, before) for index in (last,)
    } == {
        True,
        False,
    }


def test_keys_name_rows_of_fused_tensors_and_whole_routers(model):
    experts, routers = rows_of(model)

    scope = selected_experts(model, [(last_layer(model), TARGET)])

    assert scope.trained.keys() == {f"{name}[{TARGET}]" for name in experts} | routers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_deleted_expert_gives_zero_and_the_others_what_they_gave(model, dtype):
    """Layer's experts called by hand: token n goes to expert n alone, with weight 1."""
    model.to(dtype)
    before, experts = bits(model), moe_layers(model)[-1].experts
    hidden = torch.randn(EXPERTS, model.config.hidden_size, dtype=dtype)
    chosen, weights = torch.arange(EXPERTS)[:, None], torch.ones(EXPERTS, 1, dtype=dtype)
    scope = Deletion(model, [(last_layer(model), TARGET)])
    original = scope.snapshot()
    with torch.no_grad():
        given = experts(hidden, chosen, weights)

        scope.delete()

        now = experts(hidden, chosen, weights)
    given[TARGET] = 0
    assert torch.equal(now, given)
    changed = changed_names(model, before)
    assert changed
    assert all(".down_proj" in name for name in changed)
    for name in changed:
        assert changed_rows(model.get_parameter(name), before[name]) == [TARGET]
    scope.restore(original)
    assert changed_names(model, before) == set()


def test_everything_is_every_parameter(model):
    before = bits(model)

    train(everything(model))

    moved = changed_names(model, before)
    assert len(moved) > 0.9 * len(before)  # an expert's bias without tokens may stay
    assert everything(model).trained_share() == 1.0


def test_an_exit_leaves_no_hooks_no_gradients_and_the_old_flags(model):
    hooks = hook_count(model)
    model.requires_grad_(True)
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]

    train(selected_experts(model, [(last_layer(model), TARGET)]))

    assert hook_count(model) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restore_is_exact_to_the_bit(model, dtype):
    model.to(dtype)
    before = bits(model)
    scope = selected_experts(model, [(last_layer(model), TARGET)])
    original = scope.snapshot()

    train(scope)
    moved = changed_names(model, before)
    scope.restore(original)

    assert moved != set()
    assert changed_names(model, before) == set()
    assert all(
        torch.equal(scope.masters[name], tensor.float()) for name, tensor in original.items()
    )


def test_changed_tensors_are_copies_of_what_changed_only(model):
    scope = selected_experts(model, [(last_layer(model), TARGET)])
    original = scope.snapshot()
    name = next(iter(scope.trained))
    with torch.no_grad():
        scope.trained[name].add_(1)

    changed = scope.changed(original)
    scope.restore(original)

    assert changed.keys() == {name}
    assert torch.equal(changed[name], original[name] + 1)


def test_a_zero_that_lost_its_sign_has_changed():
    """0.0 == -0.0, but the bits differ."""
    model = tiny_model("mixtral")
    nn.init.zeros_(model.lm_head.weight)
    scope = everything(model)
    original = scope.snapshot()

    with torch.no_grad():
        model.lm_head.weight.neg_()

    assert scope.changed(original).keys() == {"lm_head.weight"}


def test_of_fused_experts_only_those_that_changed_are_told():
    model = tiny_model("mixtral")
    scope = everything(model)
    original = scope.snapshot()

    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[3].add_(1)

    assert scope.changed(original).keys() == {"model.layers.1.mlp.experts.down_proj[3]"}


def test_a_layer_or_expert_that_is_not_there_is_refused():
    model = tiny_model("deepseek_v2")

    with pytest.raises(InputError, match=r"Layer 0 is not a MoE layer; MoE layers are \[1, 2\]"):
        selected_experts(model, [(0, 0)])
    with pytest.raises(InputError, match="there is no expert 4"):
        selected_experts(model, [(1, 4)])
    with pytest.raises(InputError, match="needs at least one"):
        selected_experts(model, [])
