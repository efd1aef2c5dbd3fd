"""What Algorithm 1 promises about the base model and the delta."""

import pytest
import torch
from torch import nn

from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.moe.names import paths_of_keys
from seuf.unlearning.algorithm import Evaluation, Unlearned
from seuf.unlearning.objectives import OBJECTIVES
from tests.tiny import bits, changed_names, hook_count, tiny_language_model
from tests.unlearning.runs import FirstIsWorst, method, run

EXPERT_KEYS = {
    "model.layers.1.mlp.experts.2.gate_proj.weight",
    "model.layers.1.mlp.experts.2.up_proj.weight",
    "model.layers.1.mlp.experts.2.down_proj.weight",
}
ROUTER_KEY = "model.layers.1.mlp.gate.weight"


def same_tensors(one: Unlearned, other: Unlearned) -> bool:
    """Tell if two deltas are the same bits."""
    a, b = one.delta.tensors, other.delta.tensors
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("scope", ["experts", "everything"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_the_base_is_left_bit_identical_and_the_delta_holds_the_change(
    language_model, scope, objective
):
    model = language_model.model
    before, hooks, digest = bits(model), hook_count(model), model_digest(model)

    done = run(language_model, method(scope, objective))

    assert changed_names(model, before) == set()
    assert hook_count(model) == hooks
    assert done.delta.base == digest
    assert done.delta.tensors
    with done.delta.applied_to(model):
        changed = changed_names(model, before)
    places = paths_of_keys(model, done.delta.tensors)
    assert changed == {place.split("[")[0] for place in places}


def test_a_judge_that_writes_to_the_embeddings_is_noticed(language_model):
    def judge(model: nn.Module) -> Judgement:
        with torch.no_grad():
            model.get_input_embeddings().weight[5, 3] += 0.5
        return Judgement(0.5, 0.5, 0.0)

    treatment = Treatment(SAMPLES, EXPERTS, method(), SETTINGS, seed=0)

    with pytest.raises(RuntimeError, match=r"was changed .*: model\.embed_tokens\.weight"):
        unlearn(language_model, treatment, judge)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_only_the_selected_expert_and_its_router_are_in_the_delta(language_model, objective):
    done = run(language_model, method("experts", objective))

    assert done.delta.tensors.keys() == EXPERT_KEYS | {ROUTER_KEY}


def test_a_frozen_router_is_not_in_the_delta(language_model):
    done = run(language_model, method(router="none", anchor_weight=0.0))

    assert done.delta.tensors.keys() == EXPERT_KEYS


def test_of_a_router_row_only_that_row_differs(language_model):
    original = language_model.model.get_parameter(ROUTER_KEY).detach().clone()

    changed = run(language_model, method(router="row")).delta.tensors[ROUTER_KEY]

    assert [not torch.equal(changed[e], original[e]) for e in range(4)] == [
        False,
        False,
        True,
        False,
    ]


def test_rmu_steers_the_highest_layer_under_treatment_so_that_all_experts_learn(language_model):
    """Steering layer 0 would leave the expert of layer 1 without a gradient."""
    done = run(language_model, method(objective="rmu"), experts=[(0, 1), (1, 2)])

    assert {name.split(".layers.")[1][0] for name in done.delta.tensors} == {"0", "1"}


def test_every_architecture_can_be_unlearned(model, language_model):
    base = LanguageModel(model, language_model.tokenizer)
    before = bits(model)

    done = run(base, method(), experts=[(1, 0)])

    assert {name.split(".layers.")[1][0] for name in done.delta.tensors} == {"1"}
    assert changed_names(model, before) == set()


def test_the_original_changes_nothing_and_is_not_even_judged(language_model):
    judge = FirstIsWorst()

    done = run(language_model, method("nothing", None), experts=[], judge=judge)

    assert done == Unlearned(done.delta, [], 0.0)
    assert done.delta.tensors == {}
    assert done.delta.base == model_digest(language_model.model)
    assert judge.seen == 0


def test_nothing_better_is_an_empty_delta(language_model):
    def indifferent(model: nn.Module) -> Evaluation:
        return Evaluation(1.0, 1.0, 0.0)

    done = run(language_model, method(), judge=indifferent)

    assert done.delta.tensors == {}
    assert len(done.log) == 2


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("scope", ["experts", "everything"])
def test_the_seed_decides_every_bit(scope, objective):
    one, same, other = (
        run(tiny_language_model(), method(scope, objective), seed=seed) for seed in (0, 0, 1)
    )

    assert same_tensors(one, same)
    assert one.log == same.log
    assert not same_tensors(one, other)


def test_a_failing_judge_leaves_the_base_bit_identical(language_model):
    before, calls = bits(language_model.model), iter([Evaluation(1.0, 1.0, 0.0)])

    with pytest.raises(StopIteration):
        run(language_model, method(), judge=lambda model: next(calls))

    assert changed_names(language_model.model, before) == set()


def test_a_bfloat16_model_is_unlearned_and_left_as_it_was(language_model):
    language_model.model.bfloat16()
    before = bits(language_model.model)

    done = run(language_model, method("experts", "gdiff"))

    assert {tensor.dtype for tensor in done.delta.tensors.values()} == {torch.bfloat16}
    assert changed_names(language_model.model, before) == set()
