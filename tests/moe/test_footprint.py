"""Sizes counted by hand."""

from contextlib import ExitStack

import pytest
import torch
from bench.shapes import SHAPES
from transformers import AutoConfig, AutoModelForCausalLM

from seuf.moe.architectures import moe_layers
from seuf.moe.experts import ExpertSlice
from seuf.moe.footprint import HEAD, KEPT_BESIDE_EXPERTS, footprint
from seuf.moe.lora import adapted, parameters_of
from tests.tiny import tiny_model

# Parameters as the authors give them, in billions, and bfloat16 weights in GB.
PUBLISHED = {"qwen": (14.3, 28.6), "deepseek": (15.7, 31.4), "mixtral": (46.7, 93.4)}


def empty(shape: str):
    """Return a model of a published shape without weights."""
    with torch.device("meta"):
        config = AutoConfig.for_model(**SHAPES[shape])
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def test_all_parameters_are_counted_once(any_model):
    size = footprint(any_model)

    assert size.parameters == sum(parameter.numel() for parameter in any_model.parameters())
    assert size.weights == 4 * size.parameters


@pytest.mark.parametrize(
    ("shape", "billions", "gigabytes"), [(k, *v) for k, v in PUBLISHED.items()]
)
def test_published_models_have_the_size_that_their_authors_give(shape, billions, gigabytes):
    size = footprint(empty(shape))

    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.05)
    assert size.weights / 1e9 == pytest.approx(gigabytes, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "percent"), [("qwen", 0.061), ("deepseek", 0.056), ("mixtral", 0.377)]
)
def test_one_expert_and_its_router_are_this_share(shape, percent):
    size = footprint(empty(shape))

    share = size.slice_parameters(len(size.layers) - 1) / size.parameters
    assert 100 * share == pytest.approx(percent, abs=0.001)


def test_a_layer_is_counted_by_hand():
    """A qwen2_moe layer, d 32, 4 experts of width 16, 2 of them chosen, a shared one of 16.

    An expert: 3 * 32 * 16 = 1536; the router 4 * 32 = 128. Beside the other two experts all of the
    layer is used. A token's two experts keep 2 * (3 * 32 + 3 * 16) = 288 elements, and each in
    training 4 * 16 beside them.
    """
    model = tiny_model("qwen2_moe")
    total = sum(p.numel() for p in model.model.layers[0].parameters())

    layer = footprint(model).layers[0]

    assert (layer.expert, layer.router, layer.width) == (1536, 128, 288)
    assert (layer.experts, layer.slice_width) == (4, 64)
    assert layer.parameters == total
    assert layer.active == total - 2 * 1536


def test_what_lora_adapts_is_counted_by_hand():
    """Of the same layer, with 4 heads of 8 and 2 of keys and values.

    Attention 1024 + 512 + 512 + 1024, the shared expert 3 * 512 and its gate 32, experts 4 * 1536.
    Adapters of rank 1 are in + out of each: 849, see test_adapters. A token gives 32 to q, k, v
    and o, 32, 32 and 16 to the shared expert, and 32 to its gate.
    """
    layer = footprint(tiny_model("qwen2_moe")).layers[0]

    assert layer.adapted == 3072 + 1536 + 32 + 4 * 1536
    assert layer.adapter == 849
    assert layer.inputs == 128 + 80 + 32


def test_the_adapters_of_every_architecture_are_as_many_as_are_put_in(any_model):
    size = footprint(any_model)

    with adapted(any_model, 3, seed=0) as adapters:
        assert size.adapters(3) == sum(p.numel() for p in parameters_of(adapters).values())
        assert size.merged_bytes() == sum(adapter.weight.nbytes for adapter in adapters)


def test_a_dense_layer_uses_all_it_has():
    size = footprint(tiny_model("deepseek_v2"))

    assert size.layers[0].active == size.layers[0].parameters
    assert size.first_moe == 1


def test_what_a_pass_holds_is_the_most_of_any_layer_and_of_training_the_sum():
    """10 tokens: 288 elements of 4 bytes, 20 bytes for each of 32 elements; two layers alike."""
    size = footprint(tiny_model("qwen2_moe"))
    one = 10 * (288 * 4 + KEPT_BESIDE_EXPERTS * 32)

    assert size.pass_bytes(10) == one
    assert size.training_bytes(10, 0, 1) == 2 * one
    assert size.training_bytes(10, 1, 1) == one


def test_experts_of_a_layer_share_its_router():
    size = footprint(tiny_model("qwen2_moe"))

    assert size.slice_parameters(1) == 1536 + 128
    assert size.slice_parameters(1, 3) == 3 * 1536 + 128
    assert size.slice_parameters(1, 3, router=False) == 3 * 1536


def test_a_slice_keeps_what_its_backward_pass_needs_of_every_token(monkeypatch):
    """As on a GPU, where all tokens pass: 4 * 16 elements each, and the token's weight."""
    model = tiny_model("qwen2_moe").requires_grad_(False)
    monkeypatch.setattr(ExpertSlice, "_routed_here", _all_tokens)
    size, tokens = footprint(model), 24

    kept = [_kept_bytes(model, slices, tokens) for slices in (1, 2, 3)]

    each = size.slice_bytes(tokens, 1, 1) + tokens * 4
    assert [kept[1] - kept[0], kept[2] - kept[1]] == [each, each]


def _all_tokens(part, chosen, weights):
    return None, (weights * (chosen == part.index)).sum(1)


def _kept_bytes(model, slices: int, tokens: int) -> int:
    """Return the bytes that a pass keeps for its backward pass, beside the model's own."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    experts = moe_layers(model)[1].experts
    with ExitStack() as stack, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        for index in range(slices):
            stack.enter_context(ExpertSlice(experts, index))
        model.model(input_ids=torch.arange(1, tokens + 1)[None], use_cache=False)
    return sum(t.untyped_storage().nbytes() for p, t in kept.items() if p not in own)


def test_shares_are_of_the_parameters_a_token_uses():
    size = footprint(tiny_model("qwen2_moe"))

    assert size.share(0, 1) == 1.0
    assert size.share(1, 1) == 0.5
    assert size.share(0, -1) == 0.0
    assert size.head_share() == HEAD * 97 * 32 / (2 * size.layers[0].active)


def test_the_loss_holds_logits_and_gradient_of_all_tokens_or_of_a_part():
    """100 tokens times 97 logits of 4 bytes, twice; with a million tokens 2^26 of them."""
    size = footprint(tiny_model("qwen2_moe"))

    assert size.loss_bytes(100) == 2 * 100 * 97 * 4
    assert size.loss_bytes(10**6) == 2 * 2**26 * 4


def test_a_tied_head_is_counted_with_the_embeddings():
    size = footprint(tiny_model("qwen2_moe", tie_word_embeddings=True))

    assert size.head == 0
    assert size.embeddings == 97 * 32 + 32
