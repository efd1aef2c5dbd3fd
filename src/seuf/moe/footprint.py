"""What a model weighs and what passing tokens through it costs, from its configuration alone.

Formulas are for the passes that this project makes; docs/performance.md holds them against runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from seuf.moe.architectures import MoELayer, decoder, moe_layers
from seuf.moe.lora import targets_in
from seuf.moe.loss import CHUNK_BYTES

# Bytes a token and element of hidden size that a layer keeps beside its experts: projections in
# the model's type, norms in float32.
KEPT_BESIDE_EXPERTS = 20
# What follows was measured on one H100 with the shapes in bench/shapes.py, see docs/studies.md.
# A backward pass through frozen layers beside their forward pass.
BACKWARD = 1.4
# One large product runs better than the many small ones of experts.
HEAD = 0.5
# Seconds that a layer takes however few the tokens are: the kernels have to be started.
LAYER_SECONDS = 1.6e-3
# Seconds that a pass takes for each byte of weights that adapters are added to.
ADAPTED_SECONDS = 4.8e-12


@dataclass(frozen=True)
class LayerSize:
    """A decoder layer: its parameters, those a token uses, and those of one expert (0: dense).

    `width` is what a token's experts keep of it, in elements; `slice_width` what each expert in
    training keeps beside that. `experts` is E. Of LoRA, `adapted` is the parameters it is merged
    into, `adapter` those of adapters of rank 1, and `inputs` what a token gives its linear layers.
    """

    parameters: int
    active: int
    expert: int = 0
    router: int = 0
    width: int = 0
    slice_width: int = 0
    experts: int = 0
    adapted: int = 0
    adapter: int = 0
    inputs: int = 0


@dataclass(frozen=True)
class Footprint:
    """Sizes of a model, in parameters.

    Attributes:
        layers: Of each decoder layer.
        embeddings: Input embeddings, norm, and all else that is no layer.
        head: Output head; 0 if it is tied to the embeddings.
        vocabulary: V.
        hidden_size: d.
        itemsize: Bytes of a parameter.
    """

    layers: list[LayerSize]
    embeddings: int
    head: int
    vocabulary: int
    hidden_size: int
    itemsize: int

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(layer.parameters for layer in self.layers) + self.embeddings + self.head

    @property
    def weights(self) -> int:
        """Bytes of all parameters."""
        return self.parameters * self.itemsize

    @property
    def first_moe(self) -> int:
        """Index of the first MoE layer."""
        return next(index for index, layer in enumerate(self.layers) if layer.expert)

    def slice_parameters(self, layer: int, experts: int = 1, router: bool = True) -> int:
        """Return the parameters of an expert, or some of a layer, and of the router."""
        return experts * self.layers[layer].expert + router * self.layers[layer].router

    def slice_bytes(self, tokens: int, layer: int, experts: int) -> int:
        """Return what experts of a layer in training keep on a GPU, there of all tokens."""
        return tokens * experts * self.layers[layer].slice_width * self.itemsize

    def adapters(self, rank: int) -> int:
        """Return the parameters of LoRA's adapters."""
        return rank * sum(layer.adapter for layer in self.layers)

    def merged_bytes(self) -> int:
        """Return the bytes of all tensors that adapters are merged into."""
        return self.itemsize * sum(layer.adapted for layer in self.layers)

    def adapter_bytes(self, tokens: int, last: int) -> int:
        """Return what a pass with gradients keeps for adapters in layers up to `last`.

        The experts with their adapters added, and what enters each linear layer, in float32.
        """
        layers = self.layers[: last + 1]
        experts = sum(layer.experts * layer.expert for layer in layers)
        return experts * self.itemsize + 4 * tokens * sum(layer.inputs for layer in layers)

    def pass_bytes(self, tokens: int) -> int:
        """Return the most that a pass without gradients holds at a time: one layer's."""
        return max(self._kept(layer, tokens) for layer in self.layers)

    def training_bytes(self, tokens: int, first: int, last: int) -> int:
        """Return what a pass with gradients holds of layers `first` to `last`."""
        return sum(self._kept(layer, tokens) for layer in self.layers[first : last + 1])

    def loss_bytes(self, tokens: int) -> int:
        """Return what the loss holds at a time: a part of the logits, and its gradient."""
        part = min(tokens * self.vocabulary, CHUNK_BYTES // 4)
        return 2 * part * self.itemsize

    def share(self, first: int, last: int) -> float:
        """Return the share of a whole pass that layers `first` to `last` are, by FLOPs."""
        total = sum(layer.active for layer in self.layers)
        return sum(layer.active for layer in self.layers[first : last + 1]) / total

    def head_share(self) -> float:
        """Return what the output head costs beside a whole pass through the layers, in time."""
        head = self.vocabulary * self.hidden_size
        return HEAD * head / sum(layer.active for layer in self.layers)

    def _kept(self, layer: LayerSize, tokens: int) -> int:
        experts = layer.width * self.itemsize
        return tokens * (experts + KEPT_BESIDE_EXPERTS * self.hidden_size)


def footprint(model: Any) -> Footprint:
    """Return the sizes of a model, which may be empty."""
    moe = {layer.index: layer for layer in moe_layers(model)}
    layers = decoder(model).layers
    hidden = model.config.hidden_size
    sizes = [_layer_size(layer, moe.get(index), hidden) for index, layer in enumerate(layers)]
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embeddings.weight or model.config.tie_word_embeddings
    beside = _parameters(model) - sum(size.parameters for size in sizes)
    head_size = 0 if tied else _parameters(head)
    return Footprint(
        layers=sizes,
        embeddings=beside - head_size,
        head=head_size,
        vocabulary=head.weight.shape[0],
        hidden_size=hidden,
        itemsize=model.dtype.itemsize,
    )


def _layer_size(layer: nn.Module, moe: MoELayer | None, hidden: int) -> LayerSize:
    total, lora = _parameters(layer), _lora_size(layer, moe)
    if moe is None:
        return LayerSize(total, total, **lora)
    experts = _parameters(moe.experts)
    expert = experts // moe.num_experts
    inner = moe.experts.get_parameter("down_proj").numel() // (moe.num_experts * hidden)
    return LayerSize(
        parameters=total,
        active=total - experts + moe.top_k * expert,
        expert=expert,
        router=_parameters(moe.router),
        # of each chosen expert: input, gate and up, their product, output, and that weighed
        width=moe.top_k * (3 * hidden + 3 * inner),
        slice_width=4 * inner,  # gate, up, gate after its activation, and their product
        experts=moe.num_experts,
        **lora,
    )


def _lora_size(layer: nn.Module, moe: MoELayer | None) -> dict[str, int]:
    linear, fused = targets_in(layer, moe)
    tensors = [*(module.weight for module in linear.values()), *fused.values()]
    return {
        "adapted": sum(tensor.numel() for tensor in tensors),
        # A is (r, in) and B (out, r), of each expert its own
        "adapter": sum(tensor.shape[:-2].numel() * sum(tensor.shape[-2:]) for tensor in tensors),
        "inputs": sum(module.in_features for module in linear.values()),
    }


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
