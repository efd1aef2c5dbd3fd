"""GRIP's null space of a router's inputs, and TRACE's weights of the retain set's tokens."""

import pytest
import torch

from seuf.moe.architectures import moe_layers
from seuf.moe.batches import by_length
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import Routing, capture_routing
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.routing_aware import (
    LARGEST_WEIGHT,
    constrain_routers,
    critical_experts,
    matching_weights,
    null_space,
    retain_token_weights,
    router_inputs,
)
from seuf.unlearning.scopes import everything, selected_experts
from tests.tiny import tiny_samples
from tests.unlearning.runs import SETTINGS, method, run
from tests.unlearning.test_scopes import train

FORGET, RETAIN = tiny_samples(6), tiny_samples(7, seed=1)


def test_tokens_that_chose_an_expert_weigh_what_brings_it_to_the_share_wanted():
    """One token of four chose it, half of them should: 2 on it, 2/3 on each of the others."""
    chosen = torch.tensor([[True], [False], [False], [False]])

    weights = matching_weights(chosen, torch.tensor([0.5]))

    torch.testing.assert_close(weights, torch.tensor([2, 2 / 3, 2 / 3, 2 / 3]))


def test_two_experts_are_matched_together():
    """Both should be chosen by half; they are by 2 of 8 tokens each, by one of these both."""
    chosen = torch.tensor([[1, 1], [1, 0], [0, 1], *[[0, 0]] * 5]).bool()

    weights = matching_weights(chosen, torch.tensor([0.5, 0.5]))

    shares = (weights[:, None] * chosen).sum(0) / weights.sum()
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5]), rtol=1e-4, atol=1e-4)
    assert weights.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.2])
def test_what_is_chosen_often_enough_or_never_is_left_alone(share):
    """One of four tokens chose the first expert, none the second."""
    chosen = torch.tensor([[True, False], *[[False, False]] * 3])

    weights = matching_weights(chosen, torch.tensor([share, 0.9]))

    assert weights.tolist() == [1, 1, 1, 1]


def test_a_weight_is_bounded():
    """One token of 1,000 stands for .9 of them: 900 unbounded, 10 before normalising."""
    chosen = torch.zeros(1000, 1).bool()
    chosen[0] = True

    weights = matching_weights(chosen, torch.tensor([0.9]))

    assert (weights.max() / weights.min()).item() == pytest.approx(
        LARGEST_WEIGHT / 0.1001, rel=1e-3
    )


def test_of_each_layer_the_expert_is_critical_that_the_forget_set_uses_beyond_the_retain_set():
    def routing(shares: list[list[float]]) -> Routing:
        nothing = torch.zeros(0)
        shared = torch.tensor(shares)
        return Routing([2, 4], shared, nothing, nothing, nothing, shared, samples=1, tokens=1)

    forget, retain = routing([[0.9, 0.6, 0.5], [0.8, 1, 0.2]]), routing([[0.8, 0.4, 0.8]] * 2)

    assert critical_experts(forget, retain) == [(2, 1), (4, 1)]


def test_weights_of_a_model_s_tokens_are_of_their_own_routing(language_model):
    """Under them an expert is chosen on the retain set as often as on the forget set."""
    base, layer = language_model, 1
    of_forget, of_retain = (
        capture_routing(base.model, by_length(s, 16, base.padding)) for s in (FORGET, RETAIN)
    )
    expert = int((of_forget.token_share - of_retain.token_share)[layer].argmax())

    weights = retain_token_weights(base, FORGET, RETAIN, [(layer, expert)], first_layer=0)

    assert [len(one) for one in weights] == [len(sample) for sample in RETAIN]
    total = chosen = 0.0
    for sample, of_sample in zip(RETAIN, weights, strict=True):
        alone = by_length([sample], 1, base.padding)
        sets = capture_routing(base.model, alone, top_k_sets=True).top_k_sets
        chosen += float((of_sample * sets[layer, :, expert]).sum())
        total += float(of_sample.sum())
    assert chosen / total == pytest.approx(float(of_forget.token_share[layer, expert]), rel=1e-4)
    assert float(of_retain.token_share[layer, expert]) < chosen / total - 0.01


@torch.no_grad()
def test_the_retain_loss_of_trace_is_weighed_token_by_token(language_model):
    of = method("experts", "gdiff", retain_loss="trace")
    passes = ForwardPasses(
        language_model, FORGET, RETAIN, of, SETTINGS, 1, 1, seed=0, experts=[(1, 2)]
    )
    batch = passes.batch(0)

    given = passes.objective_inputs(batch)["retain_loss"]

    drawn = passes.positions[0][1]
    nll = passes.nll(passes.samples_at(drawn))
    kept = sorted({position for _, retain in passes.positions for position in retain})
    weights = retain_token_weights(
        language_model,
        [FORGET[p] for p in sorted({p for forget, _ in passes.positions for p in forget})],
        [RETAIN[p - len(FORGET)] for p in kept],
        [(1, 2)],
        1,
    )
    for row, position in enumerate(drawn):
        own = weights[kept.index(position)][:-1]
        torch.testing.assert_close(
            given.values[row, : len(own)], nll.values[row, : len(own)] * own, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("scope", ["experts", "everything"])
def test_trace_trains_one_expert_or_everything(language_model, scope):
    done = run(language_model, method(scope, "gdiff", retain_loss="trace"))

    assert done.delta.tensors


def test_directions_that_inputs_hardly_have_are_free():
    """Inputs (1, 0, 0) and (0, 1e-3, 0): at tolerance 1e-2 all but the first direction."""
    inputs = torch.tensor([[1.0, 0, 0], [0, 1e-3, 0]])

    projection = null_space((inputs.T @ inputs).double(), 1e-2)

    torch.testing.assert_close(projection, torch.diag(torch.tensor([0.0, 1, 1])))
    assert null_space((inputs.T @ inputs).double(), 1e-4).trace().item() == pytest.approx(1)


@torch.no_grad()
def test_moments_are_of_what_enters_a_router(language_model):
    """Of all tokens and no padding; here recorded from one sample after the other."""
    model, seen = language_model.model, []
    router = moe_layers(model)[1].router
    handle = router.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for sample in RETAIN:
        model(torch.tensor([sample]))
    handle.remove()

    moments = router_inputs(model, [1], by_length(RETAIN, 3, language_model.padding))

    rows = torch.cat([one.flatten(0, -2) for one in seen])
    assert moments.keys() == {1}
    torch.testing.assert_close(moments[1].float(), rows.T @ rows, rtol=1e-4, atol=1e-4)


def test_a_held_router_gives_the_retain_set_the_scores_that_it_gave(model, language_model):
    """Fewer tokens than dimensions: each sample's scores are the same; others change.

    Every architecture; AdamW with steps that would change them by far more.
    """
    base = LanguageModel(model, language_model.tokenizer)
    sample, layer = [5, 9, 14, 3], moe_layers(model)[-1]
    inputs: list[torch.Tensor] = []

    def scores() -> torch.Tensor:
        handle = layer.router.register_forward_hook(
            lambda module, args, output: inputs.append(output[0].detach().clone())
        )
        with torch.no_grad():
            model(torch.tensor([sample]))
        handle.remove()
        return inputs.pop()

    scope, before = selected_experts(model, [(layer.index, 2)]), scores()
    started = {name: p.detach().clone() for name, p in scope.whole.items()}
    constrain_routers(scope, base, [sample], 1e-3)

    train(scope)

    torch.testing.assert_close(scores(), before, rtol=1e-3, atol=1e-4)
    moved = [(p - started[name]).abs().max() for name, p in scope.whole.items() if p.dim() == 2]
    assert max(moved) > 1e-3


def test_a_held_router_of_a_bfloat16_model_is_held_in_its_master(language_model):
    language_model.model.bfloat16()
    scope = selected_experts(language_model.model, [(1, 2)])
    (name,) = scope.whole
    start = scope.masters[name].detach().clone()
    constrain_routers(scope, language_model, RETAIN[:1], 1e-2)

    train(scope)

    moved = scope.masters[name].detach() - start
    _, projection = scope.projections[name]
    assert moved.abs().max() > 1e-4
    torch.testing.assert_close(moved @ projection, moved, rtol=1e-4, atol=1e-6)


def test_where_the_retain_set_fills_its_inputs_a_router_is_held_whole(language_model, caplog):
    """Tolerance far below the smallest singular value of 200 samples."""
    model = language_model.model
    names = [name for name in dict(model.named_parameters()) if ".gate.weight" in name]
    before = [model.get_parameter(name).detach().clone() for name in names]
    scope = everything(model, "routers")
    constrain_routers(scope, language_model, tiny_samples(200), 1e-9)

    train(scope)

    assert "The router of layer 0 is frozen" in caplog.text
    assert all(torch.equal(model.get_parameter(n), b) for n, b in zip(names, before, strict=True))


def test_a_row_with_a_null_space_changes_another_router(language_model):
    """A tolerance that frees some directions of 32."""
    free, held = (
        run(language_model, method(router_null_space=one)).delta.tensors for one in (None, 0.3)
    )

    assert free.keys() == held.keys()
    router = "model.layers.1.mlp.gate.weight"
    assert not torch.equal(free[router], held[router])
