"""Measure if a changed model still sends its tokens to the experts the original sent them to."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from torch import Tensor, nn

from seuf.moe.architectures import input_device, moe_layers, positions_of
from seuf.moe.batches import by_length, tokenize
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import TopKSets

BATCH_SIZE = 32
GPU_TOKENS = 2**14  # that pass at once there, of short samples


class RoutingProbe:
    """Compares a model's choice of experts with the original's, on some samples of each set.

    Args:
        model: In its original state.
        forget: Token ids of samples.
        retain: The same of the other set.
        padding: Any token id.
        first_layer: First decoder layer that may change; the choices below it stay what they were.
    """

    def __init__(
        self,
        model: nn.Module,
        forget: Sequence[Sequence[int]],
        retain: Sequence[Sequence[int]],
        padding: int,
        first_layer: int = 0,
    ) -> None:
        tokens = GPU_TOKENS if input_device(model).type == "cuda" else 0
        self.passes = {
            name: TopKSets(list(by_length(of_set, BATCH_SIZE, padding, tokens)))
            for name, of_set in {"forget": forget, "retain": retain}.items()
        }
        self.first_layer, self.layers = first_layer, [layer.index for layer in moe_layers(model)]
        self.original = self._top_k_sets(model)

    def beginning_at(self, first_layer: int) -> RoutingProbe:
        """Return the probe of a model that changes from a higher layer on."""
        probe = copy(self)
        probe.first_layer = first_layer
        left_out = sum(self.first_layer <= layer < first_layer for layer in self.layers)
        probe.original = {name: chosen[left_out:] for name, chosen in self.original.items()}
        return probe

    def overlap(self, model: nn.Module) -> dict[str, float]:
        """Return the overlap of the top-k sets with the original's, on `forget` and `retain`."""
        below = sum(layer < self.first_layer for layer in self.layers)
        overlaps = {}
        for name, chosen in self._top_k_sets(model).items():
            by_layer = routing_overlap(chosen, self.original[name])
            overlaps[name] = float((by_layer.sum() + below) / (len(by_layer) + below))
        return overlaps

    def _top_k_sets(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: sets(model, self.first_layer) for name, sets in self.passes.items()}


def probe_of(
    base: LanguageModel,
    forget: list[str],
    retain: list[str],
    max_length: int,
    tokens: int,
    first_layer: int = 0,
) -> RoutingProbe:
    """Return the probe of a model, in its original state, on the first tokens of both sets.

    A text of more than `max_length` tokens, or than the model takes, is split.
    """
    length = min(max_length, positions_of(base.model) or max_length)
    forget_ids, retain_ids = (
        first_tokens(tokenize(base.tokenizer, texts, length, split=True), tokens)
        for texts in (forget, retain)
    )
    return RoutingProbe(base.model, forget_ids, retain_ids, base.padding, first_layer)


def first_tokens(samples: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """Return the first samples that together have at least so many tokens."""
    taken: list[Sequence[int]] = []
    total = 0
    for sample in samples:
        if total >= tokens:
            break
        taken.append(sample)
        total += len(sample)
    return taken


def routing_overlap(chosen: Tensor, original: Tensor) -> Tensor:
    """Return, by layer, the mean share of each token's experts that the original chose too.

    Zhuang et al. 2025, Fig. 3.

    Args:
        chosen: The top-k sets, (L, tokens, E) of bool.
        original: The original model's.
    """
    return ((chosen & original).sum(-1) / original.sum(-1)).mean(-1)
