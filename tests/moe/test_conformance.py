"""What holds for each of the architectures that are understood; other tests take eight of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from seuf.benchmarks.choices import Choice, ChoicePasses, group_by_input
from seuf.moe.architectures import (
    GATES,
    chosen_gates,
    decoder,
    gate_probabilities,
    moe_layers,
    reads_masks,
)
from seuf.moe.batches import Batch, by_length
from seuf.moe.checkpoints import Checkpoint, folder_digest
from seuf.moe.comparison import Overlaid, compare
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.experts import ExpertSlice
from seuf.moe.forward import frozen_prefix
from seuf.moe.lora import adapted, parameters_of
from seuf.moe.loss import batch_nll
from seuf.moe.names import tensor_at, to_checkpoint, weight_names, write
from seuf.moe.routing import capture_routing, skip_packed_sequence_check
from tests.moe.test_experts import TARGET, full_gradients, mean_nll, rows_of
from tests.moe.test_lora import RANK, WITHOUT_GRADIENT, draw_b, logits
from tests.moe.test_names import all_paths, by_key
from tests.moe.test_routing import naive_affinity, router_outputs
from tests.tiny import (
    ALL,
    EIGHT,
    EXPERTS,
    TOP_K,
    bits,
    changed_names,
    inputs_of,
    some_change,
    tiny_batch,
    tiny_inputs,
    tiny_model,
    tiny_samples,
)

# Only the eight have the time; `make test-all` takes the others too.
TYPED = [
    pytest.param(name, dtype, marks=[] if name in EIGHT else pytest.mark.slow)
    for dtype in (torch.float32, torch.bfloat16)
    for name in ALL
]
# Layers that are recurrent, convolve or see a window, or attention that takes no boolean mask.
ORDER_MATTERS = {
    "afmoe",
    "deepseek_v32",
    "exaone_moe",
    "gpt_oss",
    "granitemoe_swa",
    "jamba",
    "kolibri1",
    "lfm2_moe",
    "mimo_v2_flash",
    "minimax",
    "qwen3_5_moe_text",
    "qwen3_next",
}
# Sparsemixer weighs by a softmax over what is close to the maximum.
WEIGHS_OTHERWISE = {"phimoe"}


@pytest.fixture(params=ALL)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """One tiny random model of every architecture that is understood."""
    return tiny_model(request.param)


def test_experts_top_k_and_fused_tensors_are_found(model):
    for layer in moe_layers(model):
        assert layer.num_experts == EXPERTS
        assert layer.top_k == TOP_K
        assert layer.experts.get_parameter("down_proj").shape[0] == EXPERTS
        assert layer.gate in GATES


def test_a_router_gives_its_logits_the_weights_of_its_gates_and_its_choice(model):
    """Weights are gates up to a factor a token, whether it renormalises or scales.

    So the kind of gate is what the router itself computes. The choice is its own, not of the k
    highest: a bias or groups may choose others; the gates of all others are zero.
    """
    tokens = tiny_inputs()["input_ids"].numel()

    for position, output in router_outputs(model).items():
        raw, weights, choice = output[:3]
        assert raw.shape == (tokens, EXPERTS)
        assert weights.shape == choice.shape == (tokens, TOP_K)
        assert choice.unique().numel() > TOP_K  # not the same for all

        layer, weights = moe_layers(model)[position], weights.float()
        probabilities = gate_probabilities(layer, output)
        gates = probabilities.gather(1, choice)
        if model.config.model_type not in WEIGHS_OTHERWISE:
            torch.testing.assert_close(
                weights / weights.sum(1, keepdim=True), gates / gates.sum(1, keepdim=True)
            )

        chosen, mask = chosen_gates(layer, output)
        assert torch.equal(mask.sum(1), torch.full((tokens,), float(TOP_K)))
        assert torch.equal(mask.gather(1, choice), torch.ones_like(weights))
        assert torch.equal(chosen, probabilities * mask)


@torch.no_grad()
def test_affinity_is_equation_2(model):
    samples = tiny_samples()

    routing = capture_routing(model, by_length(samples, 4, padding=0))

    expected = naive_affinity(model, samples)
    torch.testing.assert_close(routing.affinity, expected, rtol=1e-5, atol=1e-6)
    assert routing.layers == [layer.index for layer in moe_layers(model)]
    assert routing.samples == len(samples)
    assert routing.tokens == sum(map(len, samples))


@torch.no_grad()
def test_batch_nll_is_minus_the_log_probability_of_the_next_token(model):
    """As the model's own logits have it: so the head is given what the model gives it."""
    batch = tiny_batch()
    whole = model(**inputs_of(batch), use_cache=False).logits
    expected = -whole.double().log_softmax(-1)[:, :-1].gather(2, batch.input_ids[:, 1:, None])

    nll, mask = batch_nll(model, batch)

    assert nll.dtype == torch.float32
    assert torch.equal(mask, batch.attention_mask[:, 1:].bool())
    torch.testing.assert_close(nll[mask], expected[..., 0][mask].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_with_a_frozen_prefix_the_logits_are_the_same_to_the_bit(model, left):
    """Padded on the left and on the right."""
    batch = tiny_batch()
    batch = Batch(*(tensor.flip(1) for tensor in batch[:2])) if left else batch
    whole = model(**inputs_of(batch), use_cache=False).logits
    states: dict[int, Tensor] = {}
    for index, layer in enumerate(decoder(model).layers):
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: states.update({index: args[0]}),
            with_kwargs=True,
        )
    model(**inputs_of(batch), use_cache=False)

    for index in list(states):
        with frozen_prefix(model, index, states[index]):
            assert torch.equal(model(**inputs_of(batch), use_cache=False).logits, whole)


@torch.no_grad()
def test_without_the_packed_sequence_check_a_pass_is_the_same_to_the_bit(model):
    ids = tiny_batch().input_ids
    expected = model(input_ids=ids, use_cache=False).logits

    with skip_packed_sequence_check():
        skipped = model(input_ids=ids, use_cache=False).logits

    assert torch.equal(skipped, expected)


def test_choices_behind_one_question_are_scored_as_behind_one_each(model):
    """Where the model can be told what each token sees; the choices have 1 to 4 tokens."""
    contexts = [tuple(ids) for ids in tiny_samples(4, seed=1)]
    choices = [
        Choice(context, tuple(ids[:length]))
        for context in contexts
        for ids, length in zip(tiny_samples(4, seed=2, longest=4), (1, 2, 3, 4), strict=True)
    ]
    by_input = group_by_input(choices)
    tokens = []
    decoder(model).register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )

    alone = ChoicePasses(by_input, 64, shared=False).log_likelihoods(model)
    (read_alone,), tokens[:] = tokens, []
    shared = ChoicePasses(by_input, 64, shared=True).log_likelihoods(model)

    assert shared.keys() == alone.keys() == set(choices)
    assert shared == pytest.approx(alone, abs=1e-4)
    assert reads_masks(model) == (model.config.model_type not in ORDER_MATTERS)
    assert (sum(tokens) < read_alone) == reads_masks(model)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_a_slice_changes_no_logit_and_gets_the_gradients_of_its_rows(model, implementation):
    """In the lowest MoE layer and in the highest."""
    model.set_experts_implementation(implementation)
    full = full_gradients(model)
    model.requires_grad_(False)
    plain = model(**tiny_inputs(), use_cache=False).logits

    for position in (0, -1):
        layer = moe_layers(model)[position]
        with ExpertSlice(layer.experts, TARGET) as part:
            sliced = model(**tiny_inputs(), use_cache=False).logits
            mean_nll(model).backward()

        assert sliced.requires_grad
        assert torch.equal(sliced, plain)
        for name, expected in rows_of(model, layer.experts, full, TARGET).items():
            torch.testing.assert_close(part.tensors[name].grad, expected, rtol=1e-5, atol=1e-6)
        assert all(tensor.grad.norm() > 0 for tensor in part.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_all_paths_together_are_the_checkpoint(model):
    """As transformers writes it whole; what is fused there is compared expert by expert."""
    state = model.state_dict()
    once = {name: state[name] for name in weight_names(model)}
    whole, apart = revert_weight_conversion(model, once), {}

    found = by_key(model)

    for key, tensor in whole.items():
        fused = f"{key}[0]" in found
        apart |= {f"{key}[{e}]": tensor[e] for e in range(EXPERTS)} if fused else {key: tensor}
    assert found.keys() == apart.keys()
    assert all(torch.equal(found[key], apart[key]) for key in apart)


@torch.no_grad()
def test_what_is_written_by_key_is_read_by_key(model):
    """New values for every path; then each key holds its own."""
    generator, names = torch.Generator().manual_seed(1), dict(model.named_parameters())
    for path in list(all_paths(model)):
        if path.partition("[")[0] not in names:
            continue
        held = to_checkpoint(model, path, tensor_at(model, path))
        new = {key: torch.randn(t.shape, generator=generator).to(t) for key, t in held.items()}

        write(model, path, new)

        now = to_checkpoint(model, path, tensor_at(model, path))
        assert all(torch.equal(now[key], new[key]) for key in new)


@pytest.mark.parametrize(("model", "dtype"), TYPED, indirect=["model"])
@torch.no_grad()
def test_a_model_with_a_delta_has_exactly_the_new_values_and_is_then_what_it_was(model, dtype):
    model.to(dtype)
    before, change, plain = bits(model), some_change(model), logits(model)

    with Delta.of(model, change, model_digest(model)).applied_to(model):
        assert changed_names(model, before) == {path.split("[")[0] for path in change}
        for path, value in change.items():
            assert torch.equal(tensor_at(model, path), value)
            name = path.split("[")[0]
            if name != path:
                assert torch.equal(model.get_parameter(name)[0], before[name][0])
        assert not torch.equal(logits(model), plain)

    assert changed_names(model, before) == set()
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize(("model", "dtype"), TYPED, indirect=["model"])
@torch.no_grad()
def test_an_exported_checkpoint_is_the_base_with_the_delta_applied(model, dtype, tmp_path):
    """To the bit, loaded by plain transformers.

    An overlay and the export compare alike: exactly the delta's keys have changed, and the digests
    are those of the folders to the character, and of the model loaded from them.
    """
    base, out = tmp_path / "base", tmp_path / "out"
    model.to(dtype).save_pretrained(base, max_shard_size="60KB")
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    delta = Delta.of(model, some_change(model), model_digest(model))
    delta.save(tmp_path / "delta")
    delta = Delta.load(tmp_path / "delta")
    with delta.applied_to(model):
        expected = logits(model)

    export(base, delta, out)

    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out).eval()), expected)
    ours = Checkpoint(base)
    compared = compare(ours, Overlaid(ours, delta), delta.dtypes)
    assert compared == compare(ours, Checkpoint(out), delta.dtypes)
    assert {change.key for change in compared.changes} == set(delta.tensors)
    assert compared.changed == sum(tensor.numel() for tensor in delta.tensors.values())
    assert compared.total == sum(ours[key].numel() for key in ours.files)
    assert compared.base_digest == folder_digest(base, delta.dtypes) == delta.base
    assert compared.model_digest == folder_digest(out, delta.dtypes)


@pytest.mark.parametrize(("model", "dtype"), TYPED, indirect=["model"])
def test_lora_is_on_all_linear_layers_and_experts_and_changes_nothing_at_first(model, dtype):
    """With B zero the logits are the model's to the bit. Routers and head are left alone."""
    layers, before = decoder(model.to(dtype)).layers, logits(model)
    routers = [part for layer in moe_layers(model) for part in layer.router.modules()]
    linear = [m for m in layers.modules() if isinstance(m, nn.Linear) and m not in routers]
    targets = {id(module.weight) for module in linear} | {
        id(tensor)
        for layer in moe_layers(model)
        for tensor in layer.experts.parameters()
        if tensor.dim() == 3
    }
    names = {name for name, p in model.named_parameters() if id(p) in targets}

    with adapted(model, RANK, seed=0) as adapters:
        assert {adapter.name for adapter in adapters} == names
        assert len(adapters) == len(names)
        assert torch.equal(logits(model), before)

        draw_b(adapters)
        assert not torch.equal(logits(model), before)


@pytest.mark.parametrize(("model", "dtype"), TYPED, indirect=["model"])
def test_gradients_reach_every_adapter_of_every_layer(model, dtype):
    """Experts among them, which could stay frozen without a word."""
    model.to(dtype)
    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        parameters = parameters_of(adapters)

        values, counted = batch_nll(model, tiny_batch())
        values[counted].mean().backward()

        still = [name for name, p in parameters.items() if p.grad is None or not p.grad.any()]
        assert all(name.rpartition(".lora")[0].endswith(WITHOUT_GRADIENT) for name in still)
        assert {p.dtype for p in parameters.values()} == {torch.float32}
        assert not any(p.requires_grad for n, p in model.named_parameters() if ".lora_" not in n)
