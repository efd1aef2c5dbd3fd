"""A dense model cut into experts: the same function, until neurons are drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.settings import UpcyclingSettings
from seuf.moe.training import train_tokenizer
from seuf.moe.upcycling import cut_into_experts, empty_mixture, load_dense, upcycle

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # far from linear
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 4},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
}


def dense_model(kind: str, **changes: Any) -> PreTrainedModel:
    """Return a random dense model; its biases are not the zeros that they begin with."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, **KINDS.get(kind, {}), **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def settings(**changes: Any) -> UpcyclingSettings:
    """Return settings of experts that compute what the dense model does, unless changed."""
    same = {"experts": 16, "granularity": 4, "top_k": 4, "redrawn": 0.0, "router_noise": 0.0}
    return UpcyclingSettings(**{**same, **changes})


@pytest.mark.parametrize("top_k", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_before_neurons_are_drawn_anew_the_function_is_the_dense_models(kind, top_k):
    """With top 8 of parts in quarters a token takes two whole copies, each weighed by an eighth."""
    dense = dense_model(kind)
    ids = torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(1))

    mixture = upcycle(dense, settings(top_k=top_k), seed=0)

    with torch.no_grad():
        expected, logits = dense(ids).logits, mixture(ids).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_is_one_that_is_understood(kind):
    """48 neurons in four parts are experts of width 12; its class has gate and up in one tensor."""
    layers = moe_layers(upcycle(dense_model(kind), settings(), seed=0))

    assert [(layer.num_experts, layer.top_k) for layer in layers] == [(16, 4)] * 2
    assert layers[0].experts.down_proj.shape == (16, 32, 12)


def test_each_part_of_a_copy_holds_other_neurons_and_copies_hold_the_same():
    """Neuron n has gate row n, up row 10 n and output column 100 n; two parts, down times two."""
    gate = torch.arange(6.0)[:, None].expand(6, 3).clone()
    cut = settings(granularity=2, top_k=2, experts=4)

    gate_up, down, router = cut_into_experts(
        gate, 10 * gate, 100 * gate.T, cut, torch.Generator().manual_seed(0)
    )

    neurons = gate_up[:, :3, 0]
    assert sorted(neurons[:2].flatten().tolist()) == [0, 1, 2, 3, 4, 5]
    assert torch.equal(neurons[:2], neurons[2:])
    assert torch.equal(gate_up[:, 3:, 0], 10 * neurons)
    assert torch.equal(down[:, 0], 200 * neurons)
    assert torch.equal(router[0], router[1])
    assert not torch.equal(router[0], router[2])


def test_the_share_that_is_drawn_anew_has_the_dense_layers_spread():
    """Of 400 neurons in halves .3 are 60 an expert: 240 of 800 gate rows are no dense rows."""
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(400, 50, generator=generator) * std for std in (0.1, 0.2))
    down = torch.randn(50, 400, generator=generator) * 0.3
    cut = settings(granularity=2, top_k=2, experts=4, redrawn=0.3, router_noise=0.1)

    gate_up, out, router = cut_into_experts(gate, up, down, cut, generator)

    rows = gate_up[:, :200].flatten(0, 1)
    new = ~(rows[:, None] == gate[None]).all(-1).any(-1)
    assert new.sum() == 240
    assert rows[new].std() == pytest.approx(0.1, rel=0.05)
    columns = out.transpose(1, 2).flatten(0, 1)[new]
    assert columns.std() == pytest.approx(0.6, rel=0.05)  # output weights are doubled
    assert (router[0] - router[1]).std() == pytest.approx(0.02 * 0.1 * 2**0.5, rel=0.4)


def test_the_seed_decides_every_draw():
    dense = dense_model("llama")
    first, again, other = (
        upcycle(dense, settings(redrawn=0.3), seed).model.layers[0].mlp.experts.gate_up_proj
        for seed in (1, 1, 2)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_other_kinds_are_refused_by_name():
    config = {"source": "upcycle"}
    assert UpcyclingSettings(**config).path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    for changes, words in (
        ({"top_k": 6}, "top_k must be a multiple of granularity, 4"),
        ({"experts": 30}, "experts must be a multiple of granularity, 4"),
        ({"top_k": 64}, "top_k is 64, of 32 experts"),
        ({"device_map": "auto"}, "trained on one device"),
    ):
        with pytest.raises(ValueError, match=words):
            UpcyclingSettings(**changes)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("smollm3", {}, "'smollm3' cannot be upcycled: some of its layers have no rotary"),
        ("gpt2", {}, "'gpt2' cannot be upcycled: known are llama, mistral, qwen3, qwen2"),
        ("llama", {"mlp_bias": True}, "feed-forward layers have biases"),
        ("llama", {"attention_bias": True}, "attention has biases"),
        ("llama", {"intermediate_size": 50}, "of 50 neurons have no 4 equal parts"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4}, "sliding windows"),
    ],
)
def test_what_cannot_be_upcycled_is_refused_before_weights_are_read(kind, changes, words, tmp_path):
    AutoConfig.for_model(kind, **{**SHAPE, **changes}).save_pretrained(tmp_path)

    with pytest.raises(InputError, match=words):
        empty_mixture(settings(path=str(tmp_path)))


def test_a_folder_is_read_as_the_hub_lays_it_out(tmp_path):
    dense = dense_model("llama")
    dense.save_pretrained(tmp_path)
    train_tokenizer(["Ada lives in Oslo."], 300).save_pretrained(tmp_path)

    read = load_dense(settings(path=str(tmp_path)))

    assert read.model.dtype == torch.float32
    assert read.tokenizer.eos_token == "<|endoftext|>"
    for name, parameter in read.model.named_parameters():
        assert torch.equal(parameter, dense.get_parameter(name))


def test_a_gguf_file_that_is_not_there_is_named(tmp_path):
    pytest.importorskip("gguf")

    with pytest.raises(InputError, match=r"no file weights\.gguf in"):
        load_dense(settings(path=str(tmp_path), gguf_file="weights.gguf"))


def test_the_package_that_reads_gguf_files_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("seuf.moe.upcycling.find_spec", lambda name: None)

    with pytest.raises(InputError, match="pip install gguf"):
        load_dense(settings(path=str(tmp_path), gguf_file="weights.gguf"))


def small_smollm2() -> Path:
    """Return the folder of the GGUF file, or skip."""
    folder = Path("data/01_raw/smollm2")
    if not list(folder.glob("*.gguf")):
        pytest.skip("data/01_raw/smollm2 holds no GGUF file")
    return folder


@pytest.mark.slow
def test_smollm2_of_a_gguf_file_ends_texts_as_its_configuration_says():
    file = next(small_smollm2().glob("*.gguf"))

    dense = load_dense(settings(path=str(file.parent), gguf_file=file.name))

    assert (dense.tokenizer.bos_token_id, dense.tokenizer.eos_token_id) == (1, 2)
    assert dense.model.config.tie_word_embeddings
