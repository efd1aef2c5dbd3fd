"""Tiny real models, one of each architecture, with random weights; nothing is downloaded."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from seuf.moe.architectures import moe_layers
from seuf.moe.batches import Batch, pad
from seuf.moe.models import LanguageModel
from seuf.moe.pretraining import train_tokenizer

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
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "n_routed_experts": EXPERTS,
        "n_shared_experts": 1,
        "moe_intermediate_size": 16,
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "gpt_oss": {
        "num_local_experts": EXPERTS,
        "head_dim": 8,
        "sliding_window": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "granitemoe": {"num_local_experts": EXPERTS, "embedding_multiplier": 2.0},
    "mixtral": {"num_local_experts": EXPERTS},
    "olmoe": {"num_experts": EXPERTS},
    "qwen2_moe": {
        "num_experts": EXPERTS,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {
        "num_experts": EXPERTS,
        "moe_intermediate_size": 16,
        "head_dim": 8,
        "norm_topk_prob": True,
    },
}


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return a random model whose routers choose differently from token to token."""
    config = AutoConfig.for_model(model_type, **{**COMMON, **CONFIGS[model_type], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1 or parameter.shape[0] == EXPERTS:
            nn.init.normal_(parameter, std=0.25, generator=generator)
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


def hook_count(model: nn.Module) -> int:
    """Return how many forward hooks of either kind the model's modules have."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def last_layer(model: nn.Module) -> int:
    """Return the decoder index of the last MoE layer."""
    return moe_layers(model)[-1].index
