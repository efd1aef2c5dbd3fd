"""What Algorithm 1 promises about the base model and the delta."""

import gc
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from seuf.inputs import InputError
from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.moe.names import paths_of_keys
from seuf.unlearning.algorithm import Unlearned, unlearn
from seuf.unlearning.evaluations import Evaluation
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.rankings import SELECTIONS
from seuf.unlearning.selection import RoutingTable, SelectionSettings, select_experts
from seuf.unlearning.settings import ObjectiveSettings
from tests.tiny import bits, changed_names, hook_count, tiny_language_model, tiny_model
from tests.unlearning.runs import EXPERTS, RETAIN, FirstIsWorst, method, run

EXPERT_KEYS = {
    "model.layers.1.mlp.experts.2.gate_proj.weight",
    "model.layers.1.mlp.experts.2.up_proj.weight",
    "model.layers.1.mlp.experts.2.down_proj.weight",
}
ROUTER_KEY = "model.layers.1.mlp.gate.weight"


def total(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


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
    def judge(model: nn.Module) -> Evaluation:
        with torch.no_grad():
            model.get_input_embeddings().weight[5, 3] += 0.5
        return Evaluation(0.5, 0.5, 0.0)

    with pytest.raises(RuntimeError, match=r"was changed .*: model\.embed_tokens\.weight"):
        run(language_model, method(), judge=judge)


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


def test_a_deletion_is_one_evaluation_and_zeros_in_the_delta(language_model):
    """Rows of the original and of what is left; the base is as it was."""
    before = bits(language_model.model)

    done = run(language_model, method("deletion", None, selection="affinity"))

    assert done.delta.tensors.keys() == {k for k in EXPERT_KEYS if "down_proj" in k}
    assert not any(tensor.any() for tensor in done.delta.tensors.values())
    assert [(row["step"], row["kept"]) for row in done.log] == [(0, False), (1, True)]
    assert done.trained_share == pytest.approx(32 * 16 / total(language_model.model))
    assert changed_names(language_model.model, before) == set()


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


def test_a_model_that_knows_nothing_has_no_share_forgotten_and_says_so(language_model, caplog):
    done = run(language_model, method(), judge=lambda model: Evaluation(0.2, 0.5, chance=0.25))

    assert [row["forgotten"] for row in done.log] == [None] * 3
    assert done.delta.tensors
    assert "no better than by guessing" in caplog.text


@pytest.mark.parametrize(
    ("scope", "objective"),
    [
        ("everything", "gdiff"),
        *(("experts", name) for name in sorted(OBJECTIVES)),
        *(
            pytest.param("everything", name, marks=pytest.mark.slow)
            for name in sorted({*OBJECTIVES} - {"gdiff"})
        ),
    ],
)
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


def alive_of(weight: torch.Tensor) -> dict[int, torch.Tensor]:
    """Return the tensors of a weight's shape that are alive, one for each piece of memory."""
    alive = (one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter))
    return {one.data_ptr(): one for one in alive if one.shape == weight.shape}


def test_a_full_run_keeps_the_original_once_and_the_best_once(language_model):
    """At first the model and the original; at the end the best and AdamW's two moments too.

    A judge sees no gradient: they are dropped after each step.
    """
    weight, counted = language_model.model.get_output_embeddings().weight, []

    class Counts(FirstIsWorst):
        def __call__(self, model: nn.Module) -> Evaluation:
            counted.append(len(alive_of(weight).keys() - others.keys()) / len(own))
            return super().__call__(model)

    own = {weight.data_ptr(), language_model.model.get_input_embeddings().weight.data_ptr()}
    others = {at: one for at, one in alive_of(weight).items() if at not in own}  # of other tests

    run(language_model, method("everything", "ga"), judge=Counts(), steps=4)

    assert counted == [2, 4, 5]


@pytest.mark.parametrize("layers", [[1], None])
def test_rmu_below_all_that_is_trained_is_refused_before_a_step(language_model, layers):
    """Layer 0 is steered; of layer 1, or of the experts of a model without any in layer 0."""
    model_type = "qwen2_moe" if layers else "deepseek_v2"
    base = LanguageModel(tiny_model(model_type), language_model.tokenizer)
    only = method("everything", "rmu", layers=layers, only="experts")
    judge = FirstIsWorst()

    with pytest.raises(InputError, match=r"rmu steers what leaves layer 0 .* trained is 1"):
        run(base, only, judge=judge, objectives=ObjectiveSettings(rmu_layer=0))

    assert judge.seen == 0


def test_an_objective_and_a_rule_from_elsewhere_are_used_by_their_names(
    language_model, monkeypatch
):
    """An objective with a number of its own, and a rule: one function and one row each."""

    def half_gdiff(forget_nll: Any, retain_nll: Any, *, half_weight: float = 0.5) -> torch.Tensor:
        return half_weight * (retain_nll.mean() - forget_nll.mean())

    monkeypatch.setitem(OBJECTIVES, "half_gdiff", half_gdiff)
    monkeypatch.setitem(SELECTIONS, "last", lambda forget, retain, seed: 0 * forget + forget.max())
    row = method("experts", "half_gdiff", selection="last_2")
    settings = SelectionSettings(rules=["last", "last_2"])
    table = RoutingTable([0, 1], torch.eye(2), torch.stack([torch.eye(2)] * 2), torch.eye(2))
    experts = select_experts(table, table, settings, seed=0)["last_2"].experts

    weights = ObjectiveSettings(), ObjectiveSettings(half_weight=1.0)
    by_default, heavier = (
        run(language_model, row, experts=experts, objectives=weight, steps=1) for weight in weights
    )

    assert experts == [(0, 1)]
    assert by_default.log[1]["loss"] == pytest.approx(heavier.log[1]["loss"] / 2)
    assert by_default.delta.tensors.keys() == heavier.delta.tensors.keys()
    with pytest.raises(ValidationError, match="no objective takes 'third_weight'"):
        ObjectiveSettings(third_weight=1.0)


def write_to_the_trained_router(model: nn.Module) -> Evaluation:
    """Judge, and write to what is in training, better each time."""
    with torch.no_grad():
        router = model.get_parameter(ROUTER_KEY)
        router[0, 0] += 1.0
    return Evaluation(1.0, float(router[0, 0]), 0.0)


def leave_in_training_mode(model: nn.Module) -> Evaluation:
    """Judge, and forget the way back."""
    model.train()
    return Evaluation(1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("judge", "error", "why"),
    [
        (
            write_to_the_trained_router,
            RuntimeError,
            r"The judge wrote to model\.layers\.1\.mlp\.gate",
        ),
        (leave_in_training_mode, RuntimeError, "left the model in training mode"),
        (lambda model: None, InputError, "The judge returned None; it must return an Evaluation"),
    ],
)
def test_a_judge_that_does_more_or_less_than_judge_is_refused(language_model, judge, error, why):
    with pytest.raises(error, match=why):
        run(language_model, method(), judge=judge)


@pytest.mark.parametrize(
    ("loss", "returned"),
    [
        (lambda forget_nll: forget_nll.values, r"it returned \(2, \d+\)"),
        (lambda forget_nll: forget_nll.mean().detach(), r"requires_grad=False"),
    ],
)
def test_an_objective_that_is_no_loss_is_refused(language_model, monkeypatch, loss, returned):
    monkeypatch.setitem(OBJECTIVES, "odd", loss)

    with pytest.raises(InputError, match=f"Objective 'odd' must return one number .*{returned}"):
        run(language_model, method(objective="odd"))


def test_a_sample_of_one_token_and_an_expert_named_twice_are_refused(language_model):
    with pytest.raises(InputError, match="The forget set has no sample, or one of fewer than two"):
        unlearn(language_model, [[1, 2], [5]], RETAIN, method(), EXPERTS, FirstIsWorst())
    with pytest.raises(InputError, match="An expert is named twice"):
        run(language_model, method(), experts=[(1, 2), (1, 2)])


def test_a_judge_that_always_says_the_same_is_warned_of(language_model, caplog):
    run(language_model, method(), judge=lambda model: Evaluation(0.9, 0.5, chance=0.25))
    assert "The judge scored all 3 checkpoints alike" in caplog.text

    caplog.clear()
    run(language_model, method())
    assert "alike" not in caplog.text


@pytest.mark.parametrize("scope", ["experts", "deletion"])
def test_a_method_of_experts_without_one_is_one_line(language_model, scope):
    objective = "ga" if scope == "experts" else None

    with pytest.raises(InputError, match=f"Scope '{scope}' needs at least one expert; none was"):
        run(language_model, method(scope, objective, selection="affinity"), experts=[])


def test_a_model_in_training_mode_is_refused(language_model):
    language_model.model.train()
    try:
        with pytest.raises(InputError, match=r"in training mode: call model.eval\(\)"):
            run(language_model, method())
    finally:
        language_model.model.eval()
