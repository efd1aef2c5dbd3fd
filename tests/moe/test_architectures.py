"""Where the experts and routers of each architecture are, and what their logits mean."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seuf.errors import InputError
from seuf.moe.architectures import (
    ARCHITECTURES,
    GATES,
    check_model_type,
    gate_probabilities,
    input_device,
    moe_layers,
)
from seuf.moe.routing import observed_routers
from tests.tiny import CONFIGS, EXPERTS, TOP_K, tiny_batch, tiny_model


def test_every_known_architecture_has_a_tiny_model():
    assert CONFIGS.keys() == ARCHITECTURES.keys()


def test_experts_top_k_and_fused_tensors_are_found(model):
    for layer in moe_layers(model):
        assert layer.num_experts == EXPERTS
        assert layer.top_k == TOP_K
        assert layer.experts.get_parameter("down_proj").shape[0] == EXPERTS
        assert layer.router.get_parameter("weight").shape == (EXPERTS, 32)
        assert layer.gate in GATES


def test_deepseek_counts_its_first_dense_layer():
    """Three layers, of which layer 0 is dense: the MoE layers are 1 and 2."""
    assert [layer.index for layer in moe_layers(tiny_model("deepseek_v2"))] == [1, 2]


def test_a_dense_layer_between_moe_layers_is_counted():
    model = tiny_model("qwen2_moe", num_hidden_layers=3, mlp_only_layers=[1])

    assert [layer.index for layer in moe_layers(model)] == [0, 2]


@pytest.mark.parametrize(("model_type", "has"), [("deepseek_v2", True), ("mixtral", False)])
def test_a_shared_expert_is_found_where_there_is_one(model_type, has):
    assert (moe_layers(tiny_model(model_type))[0].shared is not None) == has


def test_a_model_type_that_is_not_known_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="model type 'llama'") as error:
        check_model_type("llama")

    assert ", ".join(sorted(ARCHITECTURES)) in str(error.value)
    assert "seuf/moe/architectures.py" in str(error.value)


def test_a_dense_model_has_no_moe_layers_to_give():
    dense = LlamaForCausalLM(
        LlamaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, intermediate_size=8)
    )

    with pytest.raises(InputError, match="llama"):
        moe_layers(dense)


def test_a_moe_type_without_any_moe_layer_is_refused():
    model = tiny_model("qwen2_moe", mlp_only_layers=[0, 1])

    with pytest.raises(InputError, match="qwen2_moe model has no MoE layer"):
        moe_layers(model)


def test_gate_probabilities_are_the_softmax_over_all_experts(model):
    """Logits log 1, log 2, log 3, log 4 give 0.1, 0.2, 0.3, 0.4."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()

    gates = gate_probabilities(moe_layers(model)[0], logits)

    torch.testing.assert_close(gates, torch.tensor([[0.1, 0.2, 0.3, 0.4]]))


def test_gate_probabilities_of_bfloat16_logits_are_computed_in_float32(model):
    logits = torch.randn(5, EXPERTS, generator=torch.Generator().manual_seed(0)).bfloat16()

    gates = gate_probabilities(moe_layers(model)[0], logits)

    assert gates.dtype == torch.float32
    assert torch.equal(gates, torch.softmax(logits.float(), dim=-1))
    torch.testing.assert_close(gates.sum(-1), torch.ones(5))


def test_the_router_gives_raw_logits_first_and_its_choice_last(model):
    """The logits are x W^T (+ bias), recomputed from what went into the router."""
    inputs, outputs = {}, {}
    layers = moe_layers(model)
    handles = [
        layer.router.register_forward_pre_hook(
            lambda module, args, position=position: inputs.update({position: args[0]})
        )
        for position, layer in enumerate(layers)
    ]

    with torch.no_grad(), observed_routers(layers, lambda p, *seen: outputs.update({p: seen})):
        model(**tiny_batch()._asdict())

    for handle in handles:
        handle.remove()
    for position, layer in enumerate(layers):
        logits, chosen = outputs[position]
        weight = dict(layer.router.named_parameters())
        expected = inputs[position].reshape(-1, 32) @ weight["weight"].T + weight.get("bias", 0)
        torch.testing.assert_close(logits, expected)
        assert chosen.shape == (logits.shape[0], TOP_K)


@pytest.mark.parametrize("model_type", sorted({*ARCHITECTURES} - {"deepseek_v2"}))
def test_the_chosen_experts_are_those_of_highest_probability(model_type):
    model, seen = tiny_model(model_type), {}
    layers = moe_layers(model)

    with torch.no_grad(), observed_routers(layers, lambda p, *values: seen.update({p: values})):
        model(**tiny_batch()._asdict())

    for position, layer in enumerate(layers):
        logits, chosen = seen[position]
        best = gate_probabilities(layer, logits).topk(TOP_K).indices
        assert torch.equal(chosen.sort().values, best.sort().values)


def test_deepseek_chooses_within_its_best_groups_only():
    """Two groups of two experts, one of them allowed: whoever holds the best expert gives both.

    So the second expert is the best one's neighbour (0-1, 2-3), although another may score higher.
    """
    model = tiny_model("deepseek_v2", topk_method="group_limited_greedy", n_group=2, topk_group=1)
    layers, seen = moe_layers(model), {}

    with torch.no_grad(), observed_routers(layers, lambda p, *values: seen.update({p: values})):
        model(**tiny_batch()._asdict())

    logits, chosen = seen[0]
    first = logits.argmax(-1)
    assert torch.equal(chosen.sort().values, torch.stack([first // 2 * 2, first // 2 * 2 + 1], 1))
    assert not torch.equal(chosen.sort().values, logits.topk(2).indices.sort().values)


def test_input_device_is_that_of_the_embeddings(model):
    assert input_device(model) == model.get_input_embeddings().weight.device
