"""Models of published shapes with random weights; nothing is downloaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from seuf.moe.loading import LanguageModel

SHAPES: dict[str, dict[str, Any]] = {
    "qwen": {  # Qwen1.5-MoE-A2.7B
        "model_type": "qwen2_moe",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
    },
    "deepseek": {  # DeepSeek-V2-Lite
        "model_type": "deepseek_v2",
        "vocab_size": 102400,
        "hidden_size": 2048,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "max_position_embeddings": 4096,
    },
    "mixtral": {  # Mixtral-8x7B
        "model_type": "mixtral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 4096,
    },
    "qwen3": {  # Qwen3-30B-A3B
        "model_type": "qwen3_moe",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    "olmoe": {  # OLMoE-1B-7B
        "model_type": "olmoe",
        "vocab_size": 50304,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    "smol": {  # SmolLM2-135M made a mixture of experts
        "model_type": "mixtral",
        "vocab_size": 49152,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 384,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 2048,
        "sliding_window": None,
        "tie_word_embeddings": True,
    },
    "smol_tiny": {  # of the same proportions, for a CPU
        "model_type": "mixtral",
        "vocab_size": 2048,
        "hidden_size": 72,
        "num_hidden_layers": 8,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "intermediate_size": 48,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 2048,
        "sliding_window": None,
        "tie_word_embeddings": True,
    },
    "small": {  # for a CPU
        "model_type": "qwen2_moe",
        "vocab_size": 8192,
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 256,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": False,
    },
}
STD = 0.02


def build(shape: str, device: str, dtype: torch.dtype, layers: int | None = None) -> LanguageModel:
    """Return a model of a shape, or its first layers, with weights of standard deviation 0.02."""
    model = empty(shape, dtype, layers)
    model.to_empty(device=device)
    fill(model, device)
    return with_stub(model)


def with_stub(model: Any) -> LanguageModel:
    """Return a model with what of a tokenizer the library asks: tokens to pad and to end with."""
    return LanguageModel(model, SimpleNamespace(pad_token_id=0, eos_token_id=0))  # type: ignore[arg-type]


def empty(shape: str, dtype: torch.dtype, layers: int | None = None) -> Any:
    """Return a model of a shape, or its first layers, without weights."""
    cut = {} if layers is None else {"num_hidden_layers": layers}
    config = AutoConfig.for_model(**SHAPES[shape] | cut)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def fill(module: torch.nn.Module, device: str, drawn_on: str | None = None) -> None:
    """Give a module its weights, and its rotary embeddings their frequencies.

    Args:
        module: On a device.
        device: That.
        drawn_on: Where the weights are drawn, which decides what they are; by default there too.
    """
    generator = torch.Generator(drawn_on or device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            drawn = torch.empty_like(parameter, device=generator.device)
            parameter.copy_(drawn.normal_(0, STD, generator=generator))
        else:
            parameter.fill_(1.0 if "norm" in name else 0.0)
    for name, part in list(module.named_modules()):
        if name.endswith("rotary_emb"):
            parent = module.get_submodule(name.rpartition(".")[0])
            parent.rotary_emb = type(part)(part.config).to(device)


def samples(count: int, length: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Return random samples of one length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, vocabulary, (count, length), generator=generator).tolist()
