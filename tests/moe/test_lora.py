"""LoRA around linear layers and fused experts: what it computes, trains, and leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from seuf.inputs import InputError
from seuf.moe.activations import SharedPrefix
from seuf.moe.architectures import moe_layers
from seuf.moe.forward import compile_pieces
from seuf.moe.lora import Adapter, adapted, merge, merged, parameters_of
from seuf.moe.loss import batch_nll
from seuf.moe.names import row_path, rows_of_experts, tensor_at
from seuf.moe.routing import capture_routing
from tests.tiny import bits, changed_names, hook_count, tiny_batch, tiny_inputs, tiny_model

RANK = 4
# What a pass reads past its layer, or only to choose tokens: no gradient gets there.
WITHOUT_GRADIENT = ("dt_proj.weight", "indexer.wq_b.weight", "indexer.wk.weight")
WITHOUT_GRADIENT += ("indexer.weights_proj.weight",)


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    """Return the model's logits of some samples."""
    return model(**tiny_inputs()).logits


@torch.no_grad()
def draw_b(adapters: list[Adapter], std: float = 0.1) -> None:
    """Give every B random values, as training would."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in parameters_of(adapters).items():
        if name.endswith("lora_B") and not name.removesuffix(".lora_B").endswith(WITHOUT_GRADIENT):
            parameter.normal_(std=std, generator=generator)


def structure(model: nn.Module) -> list[tuple[str, int, list[str], bool]]:
    """Return all modules and parameters by name in their order, which they are, and their state."""
    modules = [(name, id(m), sorted(vars(m)), m.training) for name, m in model.named_modules()]
    return modules + [(n, id(p), [], p.requires_grad) for n, p in model.named_parameters()]


def test_adapters_are_counted_by_hand():
    """A qwen2_moe layer, d 32: in + out of each linear layer, and of each of 4 experts.

    q, k, v, o: 64 + 48 + 48 + 64; the shared expert's three 48 each, its gate 33; of an expert
    gate_up 32 + 32 and down 16 + 32: 224 + 177 + 4 * 112 = 849. Two layers, rank 4.
    """
    with adapted(tiny_model("qwen2_moe"), RANK, seed=0) as adapters:
        assert sum(p.numel() for p in parameters_of(adapters).values()) == 2 * 849 * 4


@pytest.mark.parametrize("model_type", ["qwen2_moe", "gpt_oss"])
def test_an_experts_merge_is_w_plus_b_a_by_hand(model_type):
    """The scale is alpha / r = 1. gpt_oss keeps its experts transposed."""
    model, expert = tiny_model(model_type), 3
    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        one = next(a for a in adapters if a.name.endswith("layers.1.mlp.experts.down_proj"))
        a, b = (getattr(one.layer, kind)["default"].weight for kind in ("lora_A", "lora_B"))
        change = sum(
            torch.outer(b[:, 4 * j + expert], a[RANK * expert + j]) for j in range(RANK)
        ).detach()
        results = {part.path: part.tensor for part in merged(adapters)}

        right_way = change.T if model_type == "gpt_oss" else change
        expected = one.weight.detach()[expert] + right_way
        path = row_path("model.layers.1.mlp.experts.down_proj", expert)
        assert torch.allclose(results[path], expected, atol=1e-6)


def test_a_linear_layers_merge_is_w_plus_b_a_by_hand():
    model = tiny_model("mixtral")
    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        parameters = parameters_of(adapters)
        name = "model.layers.0.self_attn.k_proj.weight"

        results = {part.path: part.tensor for part in merged(adapters)}

        change = parameters[f"{name}.lora_B"] @ parameters[f"{name}.lora_A"]
        before = next(adapter.weight for adapter in adapters if adapter.name == name)
        assert torch.allclose(results[name], before + change, atol=1e-6)


@torch.no_grad()
def test_in_bfloat16_a_merge_is_rounded_to_what_the_model_can_hold():
    """At 1 bfloat16 steps by 2^-7: half of 2^-8 is lost, 2^-7 is there."""
    model = tiny_model("mixtral").bfloat16()
    name = "model.layers.0.self_attn.q_proj.weight"
    model.get_parameter(name).fill_(1.0)
    with adapted(model, 1, seed=0) as adapters:
        parameters = parameters_of(adapters)
        parameters[f"{name}.lora_A"].fill_(1.0)
        parameters[f"{name}.lora_B"][0], parameters[f"{name}.lora_B"][1] = 2**-9, 2**-7

        result = next(part.tensor for part in merged(adapters) if part.path == name)

    assert result.dtype == torch.bfloat16
    assert result[0].unique().tolist() == [1.0]
    assert result[1].unique().tolist() == [1.0 + 2**-7]


def test_a_merged_model_computes_what_the_adapted_one_did(model):
    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        expected = logits(model)
        merge(adapters)

    assert torch.allclose(logits(model), expected, atol=1e-4)


def test_merged_tensors_are_of_the_plain_models_paths_and_leave_it_alone(model):
    before, rows = bits(model), rows_of_experts(model)
    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        results = {part.path: part.tensor for part in merged(adapters)}

    assert changed_names(model, before) == set()
    assert not rows.keys() & results.keys()  # experts apart
    for path, tensor in results.items():
        assert tensor_at(model, path).shape == tensor.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_afterwards_the_very_same_modules_and_bits_are_there_in_their_order(model, dtype):
    model.to(dtype)
    next(model.parameters()).requires_grad_(False)
    before, was, hooks = bits(model), structure(model), hook_count(model)

    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        values, counted = batch_nll(model, tiny_batch())
        values[counted].mean().backward()

    assert structure(model) == was
    assert changed_names(model, before) == set()
    assert hook_count(model) == hooks


def test_an_error_inside_leaves_nothing_behind():
    model = tiny_model("deepseek_v2")
    was = structure(model)

    with pytest.raises(KeyError), adapted(model, RANK, seed=0):
        model(**tiny_inputs())["nothing"]

    assert structure(model) == was


def test_the_seed_decides_a_and_the_global_generator_is_left_alone():
    model, state = tiny_model("olmoe"), torch.get_rng_state()
    drawn = []

    for seed in (0, 0, 1):
        with adapted(model, RANK, seed) as adapters:
            drawn.append([p.detach().clone() for p in parameters_of(adapters).values()])

    first, same, other = drawn
    assert all(torch.equal(one, two) for one, two in zip(first, same, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_moe_layers_are_found_with_adapters_in(model):
    plain = moe_layers(model)

    with adapted(model, RANK, seed=0):
        assert moe_layers(model) == plain


def test_routers_are_still_observed_and_prefixes_shared():
    model = tiny_model("qwen3_moe")
    plain = capture_routing(model, [tiny_batch()])

    with adapted(model, RANK, seed=0) as adapters:
        draw_b(adapters)
        own, routing = logits(model), capture_routing(model, [tiny_batch()])
        with SharedPrefix(model, 1):
            first, again = logits(model), logits(model)

    assert not torch.equal(routing.affinity, plain.affinity)
    assert torch.equal(first, own)
    assert torch.equal(again, own)


def test_a_compiled_model_runs_as_it_was_written_inside():
    model = tiny_model("mixtral")
    plain = logits(model)
    compile_pieces(model)
    compiled = [vars(module).get("forward") for module in model.modules()]

    with adapted(model, RANK, seed=0):
        inside = logits(model)

    assert torch.equal(inside, plain)
    assert [vars(module).get("forward") for module in model.modules()] == compiled


def test_an_offloaded_model_is_refused():
    with torch.device("meta"):
        model = tiny_model("mixtral")

    with (
        pytest.raises(InputError, match="a part of this model is offloaded: use a device_map"),
        adapted(model, RANK, seed=0),
    ):
        pass


def test_what_peft_cannot_do_is_one_clear_line():
    model = tiny_model("mixtral")
    was = structure(model)

    with (
        pytest.raises(InputError, match=r"peft cannot put LoRA on this mixtral model: .*positive"),
        adapted(model, 0, seed=0),
    ):
        pass

    assert structure(model) == was


def test_a_model_with_adapters_gets_no_more():
    model = tiny_model("mixtral")

    with (
        adapted(model, RANK, seed=0),
        pytest.raises(InputError, match="has LoRA adapters already"),
        adapted(model, RANK, seed=0),
    ):
        pass
