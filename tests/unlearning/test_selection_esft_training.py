"""Many experts in all MoE layers, as ESFT chooses them, go through Algorithm 1 like one."""

import pytest
import torch
from torch import nn

from seuf.moe.batches import by_length
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import batch_nll
from seuf.moe.routing import capture_routing
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.scopes import selected_experts
from seuf.unlearning.selection import SelectionSettings, select_experts
from seuf.unlearning.settings import Experts
from tests.tiny import bits, changed_names, tiny_batch, tiny_language_model, tiny_model
from tests.unlearning.runs import FORGET, method, run

LAYERS = {"qwen2_moe": [0, 1], "deepseek_v2": [1, 2]}  # the first layer of deepseek_v2 is dense


def language_model_of(model_type: str) -> LanguageModel:
    """Return a tiny model of a kind."""
    return LanguageModel(tiny_model(model_type), tiny_language_model().tokenizer)


def chosen_experts(base: LanguageModel, threshold: float = 0.6) -> Experts:
    """Return what ESFT chooses for the samples to forget."""
    forget = capture_routing(base.model, by_length(FORGET, 4, base.padding))
    settings = SelectionSettings(rules=["esft"], esft_threshold=threshold)
    return select_experts(forget, forget, settings, seed=0)["esft"].experts


def keys(experts: Experts) -> set[str]:
    """Return the names that a checkpoint gives the tensors of experts."""
    return {
        f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"
        for layer, expert in experts
        for part in ("gate", "up", "down")
    }


@pytest.mark.parametrize("model_type", LAYERS)
@pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {"dpo"}))  # its refusals are words
def test_the_delta_holds_exactly_the_chosen_experts_and_no_router(model_type, objective):
    """RMU steers the highest layer, so that the experts of all others learn too."""
    base = language_model_of(model_type)
    experts, before = chosen_experts(base), bits(base.model)
    frozen = method(objective=objective, selection="esft", router="none", anchor_weight=0.0)

    done = run(base, frozen, experts=experts)

    assert sorted({layer for layer, _ in experts}) == LAYERS[model_type]
    assert len(experts) > len(LAYERS[model_type])  # some layer has several, and not all of them
    assert len(experts) < 4 * len(LAYERS[model_type])
    assert done.delta.tensors.keys() == keys(experts)
    assert changed_names(base.model, before) == set()
    assert {entry["anchor"] for entry in done.log[1:]} == {0.0}


@pytest.mark.parametrize("model_type", LAYERS)
def test_the_trained_share_is_that_of_the_experts(model_type):
    """An expert has 3 * 32 * 16 parameters."""
    model = tiny_model(model_type)
    experts = [(layer, expert) for layer in LAYERS[model_type] for expert in (0, 2, 3)]

    share = selected_experts(model, experts, router="none").trained_share()

    total = sum(parameter.numel() for parameter in model.parameters())
    assert share == pytest.approx(len(experts) * 1536 / total)


def test_routing_of_the_first_layer_stays_where_it_was():
    """Two of two layers agree at first; with a frozen router the lower one always does."""
    base = language_model_of("qwen2_moe")
    frozen = method(selection="esft", router="none", anchor_weight=0.0, learning_rates=[1.0])

    done = run(base, frozen, experts=chosen_experts(base))

    assert all(0.5 <= entry["overlap_forget"] < 1.0 for entry in done.log[1:])


@pytest.mark.parametrize("model_type", LAYERS)
def test_experts_of_all_layers_together_get_the_gradients_of_their_rows(model_type):
    model, layers = tiny_model(model_type), LAYERS[model_type]
    fused = [
        f"model.layers.{layer}.mlp.experts.{part}_proj"
        for layer in layers
        for part in ("gate_up", "down")
    ]
    loss_of(model).backward()
    expected = {name: model.get_parameter(name).grad.clone() for name in fused}
    model.zero_grad()

    scope = selected_experts(model, [(at, e) for at in layers for e in (1, 2)], router="none")
    with scope:
        loss_of(model).backward()
        got = {path: master.grad.clone() for path, master in scope.masters.items()}

    assert got.keys() == {f"{name}[{expert}]" for name in fused for expert in (1, 2)}
    for name, gradient in expected.items():
        for expert in (1, 2):
            torch.testing.assert_close(got[f"{name}[{expert}]"], gradient[expert])


def loss_of(model: nn.Module) -> torch.Tensor:
    """Return the mean loss of a batch."""
    values, mask = batch_nll(model, tiny_batch())
    return values[mask].mean()
