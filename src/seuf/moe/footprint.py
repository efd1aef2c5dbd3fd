"""What a model's parts weigh and what a training step keeps of its tokens, from an empty model.

Bytes that are kept follow the passes this project makes; docs/studies.md compares them with runs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from seuf.moe.architectures import MoELayer, decoder, moe_layers
from seuf.moe.lora import targets_in
from seuf.moe.loss import CHUNK_BYTES

# Bytes a token and element of hidden size that a layer keeps beside its experts: projections in
# the model's type, norms in float32.
KEPT_BESIDE_EXPERTS = 20


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())


def expert_parameters(layer: MoELayer) -> int:
    """Return the parameters of one expert."""
    return _parameters(layer.experts) // layer.num_experts


def output_parameters(layer: MoELayer) -> int:
    """Return the parameters of one expert's output projection, with its bias."""
    named = layer.experts.named_parameters()
    own = [p for name, p in named if name.startswith("down_proj") and len(p) == layer.num_experts]
    return sum(parameter.numel() for parameter in own) // layer.num_experts


def router_parameters(layer: MoELayer) -> int:
    """Return the parameters that score a layer's experts; a bias that only steers the choice no."""
    scores = [p for p in layer.router.parameters() if len(p) == layer.num_experts]
    return sum(parameter.numel() for parameter in scores)


def adapter_parameters(model: nn.Module, rank: int) -> int:
    """Return the parameters of LoRA's adapters: A (r, in) and B (out, r), for each expert."""
    tensors = _adapted(model)
    return rank * sum(tensor.shape[:-2].numel() * sum(tensor.shape[-2:]) for tensor in tensors)


def adapted_bytes(model: nn.Module) -> int:
    """Return the bytes of the tensors that LoRA's adapters are merged into."""
    return sum(tensor.nbytes for tensor in _adapted(model))


def activation_bytes(model: Any, tokens: int, first: int, last: int) -> int:
    """Return what layers `first` to `last` keep of a pass with gradients."""
    moe = {layer.index: layer for layer in moe_layers(model)}
    hidden, kept = model.config.hidden_size, 0
    for index in range(first, last + 1):
        kept += KEPT_BESIDE_EXPERTS * hidden
        if layer := moe.get(index):
            # of each chosen expert: input, gate and up, their product, output, and that weighed
            kept += layer.top_k * 3 * (hidden + _width(model, layer)) * model.dtype.itemsize
    return tokens * kept


def slice_activation_bytes(model: Any, tokens: int, layer: MoELayer) -> int:
    """Return what one expert in training keeps beside that, on a GPU, where all tokens pass it.

    Gate, up, gate after its activation, and their product.
    """
    return tokens * 4 * _width(model, layer) * model.dtype.itemsize


def adapter_activation_bytes(model: Any, tokens: int, last: int) -> int:
    """Return what adapters in layers up to `last` keep beside that.

    The experts with their adapters added, and what enters each linear layer, in float32.
    """
    moe, kept = {layer.index: layer for layer in moe_layers(model)}, 0
    for index, layer in enumerate(decoder(model).layers[: last + 1]):
        linear, fused = targets_in(layer, moe.get(index))
        kept += sum(tensor.nbytes for tensor in fused.values())
        kept += 4 * tokens * sum(module.in_features for module in linear.values())
    return kept


def loss_bytes(model: Any, tokens: int) -> int:
    """Return what the token losses keep at a time: a part of the logits, and its gradient."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    return 2 * min(tokens * vocabulary, CHUNK_BYTES // 4) * model.dtype.itemsize


def _adapted(model: nn.Module) -> list[Tensor]:
    moe = {layer.index: layer for layer in moe_layers(model)}
    tensors: list[Tensor] = []
    for index, layer in enumerate(decoder(model).layers):
        linear, fused = targets_in(layer, moe.get(index))
        tensors += [*(module.weight for module in linear.values()), *fused.values()]
    return tensors


def _width(model: Any, layer: MoELayer) -> int:
    """Return an expert's width, m: the down projection has E * d * m elements."""
    down = layer.experts.get_parameter("down_proj")
    return down.numel() // (layer.num_experts * model.config.hidden_size)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
