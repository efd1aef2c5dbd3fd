"""Find the MoE layers of a model and read its routers' probabilities.

Transformers 5 keeps the experts of a layer in one module with fused tensors, (E, ...) each, beside
a router that returns its raw logits, the weights and the chosen experts. Any model of that shape
will do if its router is understood: how logits become probabilities is not guessed. `ROUTERS`
names every router class that a test has checked; others are refused by name.

How many tokens a model takes at once is here too: `check_positions` refuses longer samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seuf.inputs import InputError


@dataclass(frozen=True)
class MoELayer:
    """One MoE layer of a model.

    Attributes:
        index: Position among all decoder layers, dense ones counted.
        router: Module that scores the experts; returns logits (N, E), weights and choice (N, k).
        experts: Module that holds the fused expert tensors, (E, ...) each.
        num_experts: E.
        top_k: Experts chosen for each token, k.
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


def moe_layers(model: Any) -> list[MoELayer]:
    """Return the model's MoE layers in the order the tokens pass them.

    Raises:
        InputError: If the model has no MoE layer, or a router that is not understood.
    """
    found = [_moe_layer(index, layer) for index, layer in enumerate(decoder(model).layers)]
    layers = [layer for layer in found if layer is not None]
    if not layers:
        raise InputError(
            f"The {model.config.model_type} model has no MoE layer: none of its layers holds a "
            "router beside experts in fused tensors, as transformers 5 keeps them."
        )
    return layers


def decoder(model: Any) -> Any:
    """Return the part of a causal language model below its head: embeddings, layers, norm."""
    return model.get_decoder()


def decoder_layer(model: nn.Module, index: int) -> nn.Module:
    """Return a decoder layer.

    Raises:
        InputError: If there is none of that index.
    """
    layers = decoder(model).layers
    if not 0 <= index < len(layers):
        raise InputError(f"The model has layers 0 to {len(layers) - 1}; there is no layer {index}.")
    return layers[index]


def input_device(model: nn.Module) -> torch.device:
    """Return the device that the model takes its input on; its embeddings may be offloaded."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    hook = getattr(embeddings, "_hf_hook", None)
    if hook is not None and hook.execution_device is not None:
        return torch.device(hook.execution_device)
    return embeddings.weight.device


def gate_probabilities(layer: MoELayer, router_output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the probability of every expert for each token, in float32, before any top-k.

    Zhuang et al. 2025, section 3 (s in Eq. 1). Taken from the logits: the weights that
    transformers returns may be renormalised, scaled or rounded to bfloat16. For routers that take
    the softmax after the top-k it is the softmax over all logits; for sigmoid routers the scores
    scaled to sum 1. A bias that steers the choice alone has no part in it.

    Args:
        layer: The layer the router belongs to.
        router_output: What the router returned, or its logits (N, E).

    Returns:
        (N, E); each row sums to 1.
    """
    logits = router_output[0] if isinstance(router_output, tuple) else router_output
    return GATES[layer.gate](logits.float())


def chosen_gates(layer: MoELayer, router_output: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return g of Eq. 1, the probabilities of the chosen experts and 0 elsewhere, and the choice.

    Returns:
        g and the choice as 0 and 1, both (N, E) in float32.
    """
    probabilities = gate_probabilities(layer, router_output)
    choice = torch.zeros_like(probabilities).scatter_(1, router_output[2], 1.0)
    return probabilities * choice, choice


def _sigmoid(logits: Tensor) -> Tensor:
    scores = logits.sigmoid()
    return scores / scores.sum(-1, keepdim=True)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": _sigmoid,
}

# Softmax before or after the top-k, with or without groups, a bias or renormalisation.
SOFTMAX_ROUTERS = """
    AriaTextTopKRouter DeepseekV2TopkRouter Ernie4_5_MoeTopKRouter FlexOlmoTopKRouter
    GptOssTopKRouter GraniteMoeTopKRouter GraniteMoeSWATopKRouter GraniteMoeSharedTopKRouter
    HunYuanMoEV1Gate JambaTopKRouter MellumTopKRouter MiniMaxTopKRouter MixtralTopKRouter
    OlmoeTopKRouter PhimoeTopKRouter Qwen2MoeTopKRouter Qwen3MoeTopKRouter Qwen3NextTopKRouter
    Qwen3_5MoeTopKRouter
"""
SIGMOID_ROUTERS = """
    AXK1TopkRouter AfmoeTokenChoiceRouter DeepseekV32TopkRouter
    DeepseekV3TopkRouter Dots1TopkRouter ExaoneMoeTopkRouter
    Glm4MoeLiteTopkRouter Glm4MoeTopkRouter HYV3TopKRouter Kolibri1TopKRouter LagunaTopKRouter
    Lfm2MoeTopKRouter MiMoV2FlashTopkRouter MiniMaxM2TopKRouter SolarOpenTopkRouter
"""
ROUTERS: dict[str, str] = {
    **dict.fromkeys(SOFTMAX_ROUTERS.split(), "softmax"),
    **dict.fromkeys(SIGMOID_ROUTERS.split(), "sigmoid"),
}
ROUTER_NAMES = ("gate", "router")
SHARED_NAMES = ("shared_expert", "shared_experts", "shared_mlp")


def _moe_layer(index: int, layer: nn.Module) -> MoELayer | None:
    block: Any = next((part for part in layer.modules() if _has_fused_experts(part)), None)
    if block is None:
        return None
    router = _child(block, ROUTER_NAMES)
    shared = _child(block, SHARED_NAMES) or _child(layer, SHARED_NAMES)
    experts, gate = _unwrapped(block.experts), _gate(router, block)
    return MoELayer(index, router, experts, len(experts.down_proj), router.top_k, gate, shared)


def _has_fused_experts(part: nn.Module) -> bool:
    fused = getattr(_unwrapped(getattr(part, "experts", None)), "down_proj", None)
    return isinstance(fused, nn.Parameter) and fused.dim() == 3


def _unwrapped(experts: Any) -> Any:
    """Return the experts themselves where adapters are wrapped around them."""
    return experts.get_base_layer() if hasattr(experts, "get_base_layer") else experts


def _child(module: nn.Module, names: tuple[str, ...]) -> Any:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _gate(router: nn.Module | None, block: nn.Module) -> str:
    name = type(router).__name__ if router is not None else f"of {type(block).__name__}"
    if name not in ROUTERS:
        raise InputError(
            f"The router {name} is not understood: how its scores become probabilities would be a "
            f"guess. Understood: {', '.join(sorted(ROUTERS))}. Add it to "
            "seuf/moe/architectures.py with a test."
        )
    return ROUTERS[name]


def reads_masks(model: Any) -> bool:
    """Return whether a pass may say which tokens each token sees, and where each of them stands.

    So it is where every layer attends to all tokens before one by torch's own attention: not with
    recurrent layers, convolutions or a sliding window, which go by the order of the tokens.
    """
    config = model.config
    types = getattr(config, "layer_types", None) or []
    slides = not types and getattr(config, "sliding_window", None)
    only_full = all(kind == "full_attention" for kind in types) and not slides
    return bool(only_full and config._attn_implementation == "sdpa")


def check_positions(model: Any, samples: Iterable[Sized], remedy: str) -> None:
    """Raise if a sample has more tokens than the model was made for.

    Args:
        model: Whose configuration says for how many.
        samples: Token ids of each.
        remedy: What to do, with `{}` for the model's number.

    Raises:
        InputError: With both numbers and the remedy.
    """
    longest, positions = max(map(len, samples), default=0), positions_of(model)
    if positions is not None and longest > positions:
        raise InputError(
            f"The model has {positions} positions, and a sample has {longest} tokens: "
            f"{remedy.format(positions)}."
        )


def positions_of(model: Any) -> int | None:
    """Return how many tokens the model takes at once; None if its configuration sets no limit."""
    config = model.config
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor", 1) * rope.get("original_max_position_embeddings", 0)
    return None if limit is None else max(limit, int(stretched))
