"""Tiny real models, one of each architecture, with random weights; nothing is downloaded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import Batch, pad
from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from seuf.moe.loading import LanguageModel
from seuf.moe.names import tensor_at
from seuf.moe.training import train_tokenizer

VOCABULARY = 97
EXPERTS = 4
TOP_K = 2
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": TOP_K,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MLA: dict[str, Any] = {  # multi-head latent attention
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
GROUPED: dict[str, Any] = {  # sigmoid router with a bias, experts chosen from the best groups
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
LINEAR: dict[str, Any] = {  # gated delta rule, beside attention
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
SHARED: dict[str, Any] = {
    "num_experts": EXPERTS,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
# Every architecture that is understood.
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**MLA, **GROUPED, "q_lora_rank": None, "topk_method": "group_limited_greedy"},
    "deepseek_v3": {**MLA, **GROUPED},
    "dots1": {**GROUPED, "head_dim": 8},
    "ernie4_5_moe": {
        "num_hidden_layers": 3,
        "moe_num_experts": EXPERTS,
        "moe_k": TOP_K,
        "moe_intermediate_size": 16,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 2,
    },
    "glm4_moe": {**GROUPED, "head_dim": 8},
    "gpt_oss": {
        "num_local_experts": EXPERTS,
        "head_dim": 8,
        "sliding_window": 8,
        "rope_parameters": ROPE,
    },
    "granitemoe": {
        "num_local_experts": EXPERTS,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 3.0,
    },
    "hunyuan_v1_moe": {"num_experts": EXPERTS, "moe_topk": TOP_K, "head_dim": 8},
    "jamba": {
        "num_hidden_layers": 4,
        "num_experts": EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "minimax_m2": {"num_local_experts": EXPERTS, "head_dim": 8, "rope_parameters": ROPE},
    "mixtral": {"num_local_experts": EXPERTS},
    "olmoe": {"num_experts": EXPERTS},
    "phimoe": {"num_local_experts": EXPERTS},
    "qwen2_moe": SHARED,
    "qwen3_moe": {**SHARED, "head_dim": 8, "norm_topk_prob": True},
    "qwen3_next": {**SHARED, **LINEAR, "head_dim": 8},
    "afmoe": {
        "num_hidden_layers": 2,
        "num_dense_layers": 1,
        "num_experts": EXPERTS,
        "num_shared_experts": 1,
        "moe_intermediate_size": 16,
        "head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
    },
    "aria_text": {"moe_num_experts": EXPERTS, "moe_topk": TOP_K, "moe_num_shared_experts": 1},
    "axk1": {**MLA, **GROUPED},
    "deepseek_v32": {**MLA, **GROUPED, "n_group": 1},
    "exaone_moe": {
        **GROUPED,
        "num_experts": EXPERTS,
        "num_shared_experts": 1,
        "head_dim": 8,
    },
    "flex_olmo": {"num_experts": EXPERTS},
    "glm4_moe_lite": {**MLA, **GROUPED},
    "granitemoe_swa": {"num_local_experts": EXPERTS},
    "granitemoeshared": {"num_local_experts": EXPERTS, "shared_intermediate_size": 16},
    "hy_v3": {
        "num_experts": EXPERTS,
        "num_shared_experts": 1,
        "moe_intermediate_size": 16,
        "head_dim": 8,
        "first_k_dense_replace": 1,
    },
    "kolibri1": {"num_experts": EXPERTS, "moe_intermediate_size": 16, "head_dim": 8},
    "laguna": {"num_experts": EXPERTS, "moe_intermediate_size": 16, "head_dim": 8},
    "lfm2_moe": {
        "num_experts": EXPERTS,
        "num_dense_layers": 1,
        "moe_intermediate_size": 16,
        "layer_types": ["conv", "full_attention"],
    },
    "mellum": {"num_experts": EXPERTS, "moe_intermediate_size": 16, "head_dim": 8},
    "mimo_v2_flash": {**GROUPED, "head_dim": 8, "v_head_dim": 8},
    "minimax": {"num_local_experts": EXPERTS, "head_dim": 8},
    "qwen3_5_moe_text": {**SHARED, **LINEAR, "head_dim": 8},
    "solar_open": {**GROUPED, "head_dim": 8},
}
ALL = sorted(CONFIGS)  # only in tests/moe/test_conformance.py: 34 are many
# Of each way to route, to keep experts and to lay out layers; what other tests take.
EIGHT = [
    "deepseek_v2",
    "deepseek_v3",
    "gpt_oss",
    "jamba",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_moe",
]


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a random model whose routers choose differently from token to token."""
    config = AutoConfig.for_model(model_type, **{**COMMON, **CONFIGS[model_type], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    biases = (b for name, b in model.named_buffers() if name.endswith("bias"))
    for tensor in (*model.parameters(), *biases):
        if tensor.dim() > 1 or tensor.shape[0] == EXPERTS:
            nn.init.normal_(tensor, std=0.25, generator=generator)
    return model


def tiny_samples(count: int = 6, seed: int = 0, longest: int = 12) -> list[list[int]]:
    """Return samples of 3 to `longest` random tokens."""
    rng = random.Random(seed)
    return [
        [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(3, longest))] for _ in range(count)
    ]


def tiny_batch(count: int = 6, seed: int = 0) -> Batch:
    """Return samples of different lengths as one padded batch."""
    return pad(tiny_samples(count, seed), padding=0)


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Return what transformers itself is called with, mask and all."""
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def tiny_inputs(count: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return `tiny_batch` as transformers takes it."""
    return inputs_of(tiny_batch(count, seed))


def tiny_language_model(seed: int = 0) -> LanguageModel:
    """Return a random qwen2_moe with a tokenizer of 300 tokens."""
    texts = [f"{name} lives in {town}." for name in ("Ada", "Bo") for town in ("Oslo", "Rome")]
    tokenizer = train_tokenizer(texts, 300)
    return LanguageModel(tiny_model("qwen2_moe", seed, vocab_size=300), tokenizer)


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter, to be compared with later."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed_names(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Return the names of the parameters that are no longer what they were, bit by bit."""
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@contextmanager
def little_memory(model: nn.Module, rows: int) -> Iterator[list[int]]:
    """Let memory run out in the last decoder layer when more rows pass at once; yield how many."""
    failed: list[int] = []

    def fail(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        count = len(args[0] if args else kwargs["hidden_states"])
        if count > rows:
            failed.append(count)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = decoder(model).layers[-1].register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield failed
    finally:
        handle.remove()


def hook_count(model: nn.Module) -> int:
    """Return how many forward hooks of either kind the model's modules have."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def last_layer(model: nn.Module) -> int:
    """Return the decoder index of the last MoE layer."""
    return moe_layers(model)[-1].index


def some_change(
    model: nn.Module, expert: int = 1, seed: int = 0, experts: int = EXPERTS
) -> dict[str, Tensor]:
    """Return new values for one expert of the last layer and for its router, by path."""
    layer, generator = moe_layers(model)[-1], torch.Generator().manual_seed(seed)
    names = {module: name for name, module in model.named_modules()}
    tensors = layer.experts.named_parameters(recurse=False)
    paths = [f"{names[layer.experts]}.{n}[{expert}]" for n, t in tensors if len(t) == experts]
    paths += [f"{names[layer.router]}.{n}" for n, t in layer.router.named_parameters()]
    shapes = {path: tensor_at(model, path) for path in paths}
    return {p: torch.randn(t.shape, generator=generator).to(t) for p, t in shapes.items()}


def saved(model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a tiny model in several files."""
    tiny_model(model_type).to(dtype).save_pretrained(folder, max_shard_size="60KB")
    return folder


def delta_of(folder: Path) -> Delta:
    """Return a delta of the model in a folder."""
    model = loaded(folder)
    return Delta.of(model, some_change(model), model_digest(model))


def loaded(folder: Path) -> Any:
    """Return a model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()
