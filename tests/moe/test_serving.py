"""What other programs find in an exported mixture of experts that was made of a dense model.

Names as in Mixtral's own checkpoints: vLLM 0.33 (`vllm/model_executor/models/mixtral.py`) and
llama.cpp at 0c1e570 (`conversion/llama.py`) read these.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from safetensors import safe_open

from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.settings import UpcyclingSettings
from seuf.moe.upcycling import upcycle
from tests.moe.test_upcycling import dense_model
from tests.tiny import loaded, some_change

EXPERTS = 32
OF_LAYER = [
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    "block_sparse_moe.gate.weight",
    *(f"block_sparse_moe.experts.{e}.w{w}.weight" for e in range(EXPERTS) for w in (1, 2, 3)),
]
NAMES = {
    "model.embed_tokens.weight",
    "model.norm.weight",
    *(f"model.layers.{layer}.{name}" for layer in (0, 1) for name in OF_LAYER),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A mixture with tied embeddings, as one of SmolLM2 has, in its type."""
    dense = dense_model("llama", intermediate_size=64)  # rows of 16 bytes, as kernels want them
    mixture = upcycle(dense, UpcyclingSettings(experts=EXPERTS), seed=0)
    folder = tmp_path_factory.mktemp("base")
    mixture.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def delta(base) -> Delta:
    """One expert of the last layer and its router, changed."""
    model = loaded(base)
    changed = some_change(model, expert=5, experts=EXPERTS)
    return Delta.of(model, changed, model_digest(model))


@pytest.fixture(scope="module")
def exported(base, delta, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "exported"
    export(base, delta, folder)
    return folder


@torch.no_grad()
def test_plain_transformers_computes_what_base_and_delta_do_to_the_bit(base, delta, exported):
    model, ids = loaded(base), torch.arange(90).view(3, 30)

    unchanged, logits = model(ids).logits, loaded(exported)(ids).logits

    assert logits.dtype == torch.bfloat16
    assert not torch.equal(logits, unchanged)
    with delta.applied_to(model):
        assert torch.equal(logits, model(ids).logits)


def test_each_expert_stands_under_the_names_of_the_original_format(exported):
    """Embeddings that are tied are stored once, so there is no `lm_head.weight`."""
    with safe_open(exported / "model.safetensors", "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118

    assert shapes.keys() == NAMES
    expert = "model.layers.1.block_sparse_moe.experts.31"
    assert [shapes[f"{expert}.w{w}.weight"] for w in (1, 2, 3)] == [[16, 32], [32, 16], [16, 32]]


def test_the_delta_names_one_expert_and_its_router_in_the_same_way(delta):
    block = "model.layers.1.block_sparse_moe"
    of_expert = {f"{block}.experts.5.w{w}.weight" for w in (1, 2, 3)}

    assert delta.tensors.keys() == of_expert | {f"{block}.gate.weight"}


def test_llama_cpp_knows_every_name():
    """Its converter stacks the experts of a layer under `feed_forward.experts.w1` and so on."""
    known = get_tensor_name_map(MODEL_ARCH.LLAMA, 2)
    stacked = {f"layers.{layer}.feed_forward.experts.w{w}" for layer in (0, 1) for w in (1, 2, 3)}
    names = {name.removesuffix(".weight") for name in NAMES if ".experts." not in name} | stacked

    assert {name for name in names if known.get_name(name) is None} == set()
