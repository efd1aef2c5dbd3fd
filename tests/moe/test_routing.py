"""Eq. 2: the gate affinity, against a second implementation and by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import masking_utils

from seuf.inputs import InputError
from seuf.moe.architectures import chosen_gates, moe_layers
from seuf.moe.batches import Batch, by_length, pad
from seuf.moe.routing import capture_routing, observed_routers, skip_packed_sequence_check
from tests.tiny import (
    EXPERTS,
    TOP_K,
    bits,
    changed_names,
    hook_count,
    inputs_of,
    little_memory,
    tiny_batch,
    tiny_model,
    tiny_samples,
)


def router_outputs(model: nn.Module) -> dict[int, tuple[Tensor, ...]]:
    """Return what each MoE layer's router gives out on a batch."""
    seen: dict[int, tuple[Tensor, ...]] = {}
    with torch.no_grad(), observed_routers(moe_layers(model), lambda p, out: seen.update({p: out})):
        model(**inputs_of(tiny_batch()), use_cache=False)
    return seen


def naive_gates(kind: str, logits: Tensor) -> Tensor:
    """Return the probabilities of one token, from their definition."""
    scores = logits.exp() if kind == "softmax" else 1 / (1 + (-logits).exp())
    return scores / scores.sum()


def naive_affinity(model: nn.Module, samples: list[list[int]]) -> Tensor:
    """Return Eq. 2, one sample, one token, one expert at a time."""
    layers = moe_layers(model)
    total = torch.zeros(len(layers), EXPERTS, dtype=torch.float64)
    for sample in samples:
        seen: dict[int, tuple[Tensor, ...]] = {}
        with observed_routers(layers, lambda p, out, seen=seen: seen.update({p: out})):
            model(torch.tensor([sample]), use_cache=False)
        for position, (logits, _, chosen) in seen.items():
            for token in range(len(sample)):
                scores = naive_gates(layers[position].gate, logits[token].float())
                for expert in chosen[token].tolist():
                    total[position, expert] += scores[expert].double() / len(sample)
    return total / len(samples)


class OneRouter(nn.Module):
    """The least a model can be: the embedding of a token is the logits of its router."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="one_router")
        self.logits = nn.Embedding.from_pretrained(torch.tensor(probabilities).log())
        self.mlp = nn.Module()
        self.mlp.gate, self.mlp.experts = MixtralTopKRouter(), nn.Module()
        self.mlp.experts.down_proj = nn.Parameter(torch.zeros(len(probabilities[0]), 1, 1))
        self.layers = [nn.ModuleList([self.mlp])]

    def get_decoder(self) -> nn.Module:
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.logits

    def forward(self, input_ids: Tensor, **_: object) -> None:
        self.mlp.gate(self.logits(input_ids).flatten(0, 1))


class MixtralTopKRouter(nn.Module):
    """A router that is handed its logits and chooses one expert; it bears a name that is known."""

    top_k = 1

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return logits, *logits.softmax(-1).topk(1)


def test_affinity_averages_over_tokens_first_and_over_samples_second():
    """Token 0 is sent to expert 0 with .6, token 1 to expert 1 with .9.

    Sample [0] and sample [1, 1, 0, 0, 0, 0]: expert 0 gets (.6 + 4/6 * .6) / 2 = .5, expert 1
    (0 + 2/6 * .9) / 2 = .15. With a plain mean over the 7 tokens: 5/7 * .6 = .4286, 2/7 * .9.
    """
    model = OneRouter([[0.6, 0.4], [0.1, 0.9]])
    batch = pad([[0], [1, 1, 0, 0, 0, 0]], padding=1)

    routing = capture_routing(model, [batch])

    torch.testing.assert_close(routing.affinity, torch.tensor([[0.5, 0.15]]).double())


def test_the_order_of_the_two_means_decides_the_chosen_expert():
    """Sample [0] has one token for expert 0 (.6); sample [1, 1, 1, 1] four for expert 1 (.55).

    Per sample: .6/2 = .3 against .55/2 = .275, expert 0. Over all 5 tokens: .6/5 = .12 against
    4 * .55/5 = .44, expert 1.
    """
    model = OneRouter([[0.6, 0.4], [0.45, 0.55]])

    routing = capture_routing(model, [pad([[0], [1, 1, 1, 1]], 0)])

    torch.testing.assert_close(routing.affinity, torch.tensor([[0.3, 0.275]]).double())
    torch.testing.assert_close(routing.token_share, torch.tensor([[0.2, 0.8]]).double())


def test_padding_changes_nothing(model):
    """The same sample alone and beside one four times as long: both halves tell them apart."""
    short, long = tiny_samples(1)[0][:3], tiny_samples(1, seed=1, longest=12)[0] * 4

    alone = capture_routing(model, [pad([short], 0)])
    beside = capture_routing(model, [pad([short, long], 0)])

    torch.testing.assert_close(beside.halves[0], alone.affinity, rtol=1e-5, atol=1e-6)


def test_batch_composition_changes_nothing(model):
    samples = tiny_samples(7)

    one, three = (capture_routing(model, by_length(samples, size, 0)) for size in (1, 3))

    torch.testing.assert_close(one.affinity, three.affinity, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.halves, three.halves, rtol=1e-5, atol=1e-6)
    assert torch.equal(one.token_share, three.token_share)


def test_token_share_is_of_tokens_each_of_which_goes_to_k_experts(model):
    """Shares sum to k, so an even share is k / E."""
    routing = capture_routing(model, by_length(tiny_samples(), 4, 0))

    tokens = routing.token_share * routing.tokens
    torch.testing.assert_close(routing.token_share.sum(1), torch.full((2,), TOP_K).double())
    torch.testing.assert_close(tokens, tokens.round())
    assert routing.token_share.max() <= 1


def test_halves_are_of_the_even_and_of_the_odd_samples(model):
    """Six samples, so both halves weigh the same and average to the whole."""
    samples = tiny_samples(6)

    routing = capture_routing(model, by_length(samples, 4, 0))

    torch.testing.assert_close(
        routing.halves[0], naive_affinity(model, samples[::2]).detach(), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        routing.halves[1], naive_affinity(model, samples[1::2]).detach(), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(routing.halves.mean(0), routing.affinity)


def test_a_half_without_samples_is_not_a_number(model):
    routing = capture_routing(model, [pad(tiny_samples(1), 0)])

    assert routing.halves[1].isnan().all()
    assert not routing.affinity.isnan().any()


def test_subsets_are_told_apart_from_the_whole(model):
    samples = tiny_samples(7)

    routing = capture_routing(model, by_length(samples, 3, 0), subsets=[[0, 3], [6, 1, 2]])

    for affinity, positions in zip(routing.subsets, ([0, 3], [6, 1, 2]), strict=True):
        alone = naive_affinity(model, [samples[p] for p in positions]).detach()
        torch.testing.assert_close(affinity, alone, rtol=1e-5, atol=1e-6)


def test_the_error_of_an_affinity_is_that_of_a_mean_over_samples():
    """Samples [0], [1] and [0, 1]: expert 0 gets .6, 0 and .3, whose variance is .09, so the
    error is .3 / sqrt(3); expert 1 gets 0, .9 and .45: variance .2025, .45 / sqrt(3).
    """
    model = OneRouter([[0.6, 0.4], [0.1, 0.9]])

    routing = capture_routing(model, [pad([[0], [1], [0, 1]], 0)])

    errors = torch.tensor([[0.3, 0.45]]).double() / 3**0.5
    torch.testing.assert_close(routing.errors, errors, rtol=1e-6, atol=0)
    assert capture_routing(model, [pad([[0]], 0)]).errors.isnan().all()


def test_affinity_of_a_bfloat16_model_is_summed_in_float64():
    model = tiny_model("qwen2_moe").bfloat16()

    routing = capture_routing(model, by_length(tiny_samples(), 4, 0))

    assert routing.affinity.dtype == torch.float64
    assert 0 < routing.affinity.sum(1).max() <= 1


def test_capture_leaves_the_model_as_it_was(model):
    before, hooks = bits(model), hook_count(model)

    capture_routing(model, by_length(tiny_samples(), 4, 0))

    assert changed_names(model, before) == set()
    assert hook_count(model) == hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hooks_are_removed_after_an_exception(model):
    hooks = hook_count(model)

    def broken(*_: object) -> None:
        raise RuntimeError("broken observer")

    with (
        pytest.raises(RuntimeError, match="broken observer"),
        observed_routers(moe_layers(model), broken),
    ):
        model(torch.tensor([[1, 2, 3]]), use_cache=False)

    assert hook_count(model) == hooks


def test_observed_logits_carry_the_gradient_of_the_router(model):
    layers, seen = moe_layers(model), []

    with observed_routers(layers, lambda position, output: seen.append(output[0])):
        model(torch.tensor([[1, 2, 3]]), use_cache=False)
    seen[-1].square().sum().backward()

    assert next(layers[-1].router.parameters()).grad.norm() > 0


def test_left_padding_counts_as_little_as_right_padding(model):
    """The affinity is that of the tokens where they stand: positions count from the left edge."""
    left = Batch(*(tensor.flip(1) for tensor in tiny_batch()[:2]))
    seen: dict[int, tuple[Tensor, ...]] = {}
    with observed_routers(moe_layers(model), lambda p, out: seen.update({p: out})):
        model(**inputs_of(left), use_cache=False)
    gates, _ = chosen_gates(moe_layers(model)[-1], seen[len(moe_layers(model)) - 1])
    mask = left.attention_mask[..., None]
    means = (gates.view(*left.input_ids.shape, EXPERTS) * mask).sum(1) / mask.sum(1)

    routing = capture_routing(model, [left])

    torch.testing.assert_close(routing.affinity[-1].float(), means.mean(0))


def test_a_mapping_is_a_batch_too(model):
    """What a tokenizer returns, with or without a mask."""
    batch = tiny_batch()
    whole = {"input_ids": batch.input_ids[:, :3]}

    one, other = (capture_routing(model, [b]) for b in (batch, inputs_of(batch)))

    assert torch.equal(one.affinity, other.affinity)
    assert capture_routing(model, [whole]).tokens == batch.input_ids[:, :3].numel()


def test_no_token_at_all_is_refused(model):
    with pytest.raises(InputError, match="no token to capture"):
        capture_routing(model, [])


def test_capture_runs_twice_to_the_same_bits(model):
    one, other = (capture_routing(model, by_length(tiny_samples(), 4, 0)) for _ in range(2))

    assert torch.equal(one.affinity, other.affinity)
    assert torch.equal(one.halves, other.halves)


def test_neither_the_last_experts_nor_the_head_run(model):
    ran = []
    last = moe_layers(model)[-1]
    parts = {"experts": last.experts, "head": model.get_output_embeddings(), "router": last.router}
    handles = [
        part.register_forward_pre_hook(lambda module, args, name=name: ran.append(name))
        for name, part in parts.items()
    ]

    capture_routing(model, [tiny_batch()])

    for handle in handles:
        handle.remove()
    assert ran == ["router"]


@torch.no_grad()
def test_top_k_sets_are_each_tokens_choice_without_padding(model):
    batch, seen = tiny_batch(), {}
    with observed_routers(moe_layers(model), lambda p, out: seen.update({p: out[2]})):
        model(**batch.inputs(torch.device("cpu")), use_cache=False)
    kept = batch.attention_mask.flatten().bool()

    sets = capture_routing(model, [batch], top_k_sets=True).top_k_sets

    assert sets.shape == (len(moe_layers(model)), kept.sum(), EXPERTS)
    for position, chosen in seen.items():
        expected = nn.functional.one_hot(chosen, EXPERTS).sum(1).bool()[kept]
        assert torch.equal(sets[position], expected)


def test_layers_below_the_first_are_not_observed(model):
    last = moe_layers(model)[-1].index

    whole, part = (capture_routing(model, [tiny_batch()], first_layer=n) for n in (0, last))

    assert part.layers == [last]
    assert torch.equal(part.affinity[0], whole.affinity[-1])


def test_a_batch_that_does_not_fit_passes_in_parts_and_nothing_counts_twice():
    """Two of the three layers have counted when memory runs out; 7 rows pass as 3, 3 and 1."""
    model = tiny_model("mixtral", num_hidden_layers=3)
    batches = list(by_length(tiny_samples(7), 7, padding=0))
    whole = capture_routing(model, batches, top_k_sets=True)

    with little_memory(model, rows=3) as failed:
        parts = capture_routing(model, batches, top_k_sets=True)

    assert failed == [7]
    assert (parts.samples, parts.tokens) == (whole.samples, whole.tokens)
    assert torch.equal(parts.token_share, whole.token_share)
    assert torch.equal(parts.top_k_sets, whole.top_k_sets)
    torch.testing.assert_close(parts.affinity, whole.affinity, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.halves, whole.halves, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.errors, whole.errors, rtol=1e-5, atol=1e-6)


def test_a_sample_that_does_not_fit_is_too_long():
    model = tiny_model("mixtral")

    with little_memory(model, rows=0), pytest.raises(InputError, match="lower max_length"):
        capture_routing(model, by_length(tiny_samples(7), 4, padding=0))


NAMES = ["find_packed_sequence_indices", "is_tracing"]


def test_transformers_is_left_as_it_was():
    before = [getattr(masking_utils, name) for name in NAMES]

    with pytest.raises(ZeroDivisionError), skip_packed_sequence_check():
        _ = 1 / 0

    assert [getattr(masking_utils, name) for name in NAMES] == before
