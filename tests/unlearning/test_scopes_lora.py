"""Unlearning by LoRA: the base is left as it was, and what is stored is the merged weights."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from seuf.moe.batches import pad
from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.moe.lora import parameters_of
from seuf.moe.loss import batch_nll
from seuf.moe.names import paths_of_keys
from seuf.unlearning.evaluations import Evaluation
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.scopes import Scope, open_scope
from seuf.unlearning.settings import ObjectiveSettings
from tests.tiny import bits, changed_names, hook_count, tiny_inputs, tiny_language_model, tiny_model
from tests.unlearning.runs import FORGET, FirstIsWorst, method, run

MODELS = ["deepseek_v2", "gpt_oss", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe"]


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    """Return a model's logits of some samples."""
    return model(**tiny_inputs()).logits


@torch.no_grad()
def forget_nll(model: nn.Module) -> float:
    """Return the mean NLL of what is to be forgotten."""
    values, counted = batch_nll(model, pad(FORGET, 0))
    return values[counted].mean().item()


class Remembers(FirstIsWorst):
    """A judge that remembers the logits of the last model it saw, and of what modules that was."""

    def __call__(self, model: nn.Module) -> Evaluation:
        self.last, self.adapted = (
            logits(model),
            any("lora_A" in n for n, _ in model.named_modules()),
        )
        return super().__call__(model)


def lora(model: nn.Module, rank: int) -> AbstractContextManager[Scope]:
    """Return the scope of LoRA."""
    return open_scope(model, method("lora", "ga", rank=rank), [], seed=0)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_base_is_left_as_it_was_and_the_delta_holds_the_change(language_model, objective):
    model = language_model.model
    before, hooks, digest = bits(model), hook_count(model), model_digest(model)
    modules = [(name, id(module)) for name, module in model.named_modules()]

    done = run(language_model, method("lora", objective))

    assert changed_names(model, before) == set()
    assert hook_count(model) == hooks
    assert [(name, id(module)) for name, module in model.named_modules()] == modules
    assert done.delta.base == digest == model_digest(model)
    with done.delta.applied_to(model):
        changed = changed_names(model, before)
    assert changed == {place.split("[")[0] for place in paths_of_keys(model, done.delta.tensors)}


def test_linear_layers_and_experts_of_all_layers_change_and_nothing_else(language_model):
    model = language_model.model
    before = bits(model)

    with run(language_model, method("lora", "gdiff")).delta.applied_to(model):
        changed = changed_names(model, before)

    inside = "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    inside += "self_attn.o_proj.weight mlp.experts.gate_up_proj mlp.experts.down_proj "
    inside += "mlp.shared_expert.gate_proj.weight mlp.shared_expert.up_proj.weight "
    inside += "mlp.shared_expert.down_proj.weight mlp.shared_expert_gate.weight"
    assert changed == {f"model.layers.{i}.{name}" for i in (0, 1) for name in inside.split()}


@pytest.mark.parametrize("model_type", MODELS)
def test_the_stored_model_is_the_one_that_was_judged_but_for_rounding(model_type):
    tokenizer = tiny_language_model().tokenizer
    base, judge = LanguageModel(tiny_model(model_type), tokenizer), Remembers()
    plain = logits(base.model)

    done = run(base, method("lora", "ga"), experts=[], judge=judge)

    assert judge.adapted
    assert not torch.allclose(judge.last, plain, atol=1e-2)
    with done.delta.applied_to(base.model):
        assert torch.allclose(logits(base.model), judge.last, atol=1e-4)
    assert torch.equal(logits(base.model), plain)


def test_what_is_to_be_forgotten_is_predicted_worse(language_model):
    before = forget_nll(language_model.model)

    done = run(language_model, method("lora", "ga"), steps=8)

    with done.delta.applied_to(language_model.model):
        assert forget_nll(language_model.model) > before + 0.1


def test_the_changed_tensors_are_the_merged_ones(language_model):
    model = language_model.model
    digest = model_digest(model)
    with lora(model, rank=2) as scope:
        original = scope.snapshot()
        assert scope.changed(original) == {}

        for name, parameter in parameters_of(scope.adapters).items():
            if name.endswith("experts.down_proj.lora_B"):
                nn.init.normal_(parameter)
        changed, expected = scope.changed(original), logits(model)

    assert changed.keys() == {
        f"model.layers.{layer}.mlp.experts.down_proj[{expert}]"
        for layer in (0, 1)
        for expert in range(4)
    }
    with Delta.of(model, changed, digest).applied_to(model):
        assert torch.allclose(logits(model), expected, atol=1e-4)


def test_the_trained_share_counts_adapters_against_the_plain_model(language_model):
    """849 parameters of rank 1 in each of 2 layers, see tests/moe/test_lora.py; rank 3."""
    total = sum(parameter.numel() for parameter in language_model.model.parameters())

    done = run(language_model, method("lora", "ga", rank=3))

    assert done.trained_share == pytest.approx(3 * 2 * 849 / total)


def test_rmu_steers_the_layer_of_the_study_and_nothing_above_it_learns(language_model):
    steered = ObjectiveSettings(rmu_layer=0)

    done = run(language_model, method("lora", "rmu"), objectives=steered)

    assert {name.split(".layers.")[1][0] for name in done.delta.tensors} == {"0"}


def test_a_failing_judge_leaves_no_adapters(language_model):
    before, calls = bits(language_model.model), iter([Evaluation(1.0, 1.0, 0.0)])

    with pytest.raises(StopIteration):
        run(language_model, method("lora", "ga"), judge=lambda model: next(calls))

    assert bits(language_model.model).keys() == before.keys()
    assert changed_names(language_model.model, before) == set()


def test_a_bfloat16_model_keeps_its_type_in_the_delta_and_its_adapters_in_float32(language_model):
    model = language_model.model.bfloat16()
    before = bits(model)

    done = run(language_model, method("lora", "gdiff"))

    assert {tensor.dtype for tensor in done.delta.tensors.values()} == {torch.bfloat16}
    assert changed_names(model, before) == set()
    with lora(model, rank=8) as scope:
        assert {tensor.dtype for tensor in scope.masters.values()} == {torch.float32}


def test_the_seed_decides_every_bit():
    one, same, other = (
        run(tiny_language_model(), method("lora", "npo"), seed=seed).delta.tensors
        for seed in (0, 0, 1)
    )

    assert one.keys() == same.keys()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one.keys() & other.keys())
