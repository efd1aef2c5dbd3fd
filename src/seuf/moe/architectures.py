"""Find the MoE layers of a model and read its routers' probabilities.

Transformers 5 keeps the experts of a layer in one module with fused tensors, (E, ...) each, and
the router in another that returns its raw logits first. What differs between architectures is
where the two sit and how logits become probabilities; `ARCHITECTURES` says it in one row each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seuf.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """Where a decoder layer keeps its experts and router, and what its router computes."""

    block: str
    router: str
    gate: str
    shared: str | None = None


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer of a model.

    Attributes:
        index: Position among all decoder layers, dense ones counted.
        router: Module that scores the experts; its first output is the logits (N, E).
        experts: Module that holds the fused expert tensors, (E, ...) each.
        num_experts: E.
        top_k: Experts chosen for each token.
        gate: How logits become probabilities, a key of `GATES`.
        shared: Expert that every token passes through, if the architecture has one.
    """

    index: int
    router: nn.Module
    experts: nn.Module
    num_experts: int
    top_k: int
    gate: str
    shared: nn.Module | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "deepseek_v2": Architecture("mlp", "gate", "softmax", shared="shared_experts"),
    "gpt_oss": Architecture("mlp", "router", "softmax"),
    "granitemoe": Architecture("block_sparse_moe", "router", "softmax"),
    "mixtral": Architecture("mlp", "gate", "softmax"),
    "olmoe": Architecture("mlp", "gate", "softmax"),
    "qwen2_moe": Architecture("mlp", "gate", "softmax", shared="shared_expert"),
    "qwen3_moe": Architecture("mlp", "gate", "softmax"),
}


def moe_layers(model: nn.Module) -> list[MoELayer]:
    """Return the model's MoE layers in the order the tokens pass them.

    Raises:
        InputError: If the model is not of a known MoE architecture.
    """
    config: Any = model.config
    architecture = check_model_type(config.model_type)
    layers = [
        _moe_layer(config, index, getattr(layer, architecture.block), architecture)
        for index, layer in enumerate(decoder(model).layers)
        if hasattr(getattr(layer, architecture.block, None), "experts")
    ]
    if not layers:
        raise InputError(f"The {config.model_type} model has no MoE layer.")
    return layers


def decoder(model: Any) -> Any:
    """Return the part of a causal language model below its head: embeddings, layers, norm."""
    return model.get_decoder()


def input_device(model: nn.Module) -> torch.device:
    """Return where the model takes its input: the device of its embeddings."""
    return next(model.parameters()).device


def gate_probabilities(layer: MoELayer, logits: Tensor) -> Tensor:
    """Return the probability of every expert for each token, in float32, before any top-k.

    Zhuang et al. 2025, section 3 (s in Eq. 1). Taken from the logits: the weights that
    transformers returns may be renormalised, scaled or rounded to bfloat16.

    Args:
        layer: The layer the logits come from.
        logits: The router's raw scores (N, E).

    Returns:
        (N, E); each row sums to 1.
    """
    return GATES[layer.gate](logits.float())


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits, dim=-1),
}


def check_model_type(model_type: str) -> Architecture:
    """Return the architecture of a transformers model type.

    Raises:
        InputError: If no MoE architecture of that type is known; the message names those known.
    """
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"No MoE architecture is known for model type {model_type!r}; known: "
            f"{', '.join(sorted(ARCHITECTURES))}. Add a row to seuf/moe/architectures.py."
        )
    return ARCHITECTURES[model_type]


def _moe_layer(config: Any, index: int, block: Any, architecture: Architecture) -> MoELayer:
    experts = block.experts
    return MoELayer(
        index=index,
        router=getattr(block, architecture.router),
        experts=experts,
        num_experts=experts.down_proj.shape[0],
        top_k=config.num_experts_per_tok,
        gate=architecture.gate,
        shared=getattr(block, architecture.shared) if architecture.shared else None,
    )
