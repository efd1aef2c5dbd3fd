"""Does a changed model still send its tokens to the experts the original sent them to?"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seuf.moe.architectures import moe_layers
from seuf.moe.batches import Batch, by_length, tokenize
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import capture_routing


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
        self.batches = {"forget": _batches(forget, padding), "retain": _batches(retain, padding)}
        self.first_layer = first_layer
        self.original = self._sets(model)

    def overlap(self, model: nn.Module) -> dict[str, float]:
        """Return the overlap of the top-k sets with the original's, on `forget` and `retain`."""
        below = sum(layer.index < self.first_layer for layer in moe_layers(model))
        now = self._sets(model)
        return {name: _mean_overlap(now[name], sets, below) for name, sets in self.original.items()}

    def _sets(self, model: nn.Module) -> dict[str, Tensor]:
        return {
            name: _top_k_sets(model, batches, self.first_layer)
            for name, batches in self.batches.items()
        }


def probe_of(
    base: LanguageModel,
    forget: list[str],
    retain: list[str],
    max_length: int,
    tokens: int,
    first_layer: int = 0,
) -> RoutingProbe:
    """Return the probe of a model, in its original state, on the first tokens of both sets."""
    to_forget, to_keep = (
        first_tokens(tokenize(base.tokenizer, texts, max_length), tokens)
        for texts in (forget, retain)
    )
    return RoutingProbe(base.model, to_forget, to_keep, base.padding, first_layer)


def first_tokens(samples: Sequence[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """Return the first samples that together have at least so many tokens."""
    taken: list[Sequence[int]] = []
    for sample in samples:
        if sum(map(len, taken)) >= tokens:
            break
        taken.append(sample)
    return taken


def routing_overlap(chosen: Tensor, original: Tensor) -> Tensor:
    """Return, by layer, the mean share of each token's experts that the original chose too.

    Zhuang et al. 2025, Fig. 3.

    Args:
        chosen: The top-k sets, (L, tokens, E) of bool.
        original: The original model's.
    """
    return ((chosen & original).sum(-1) / original.sum(-1)).mean(-1)


def _mean_overlap(now: Tensor, original: Tensor, layers_below: int) -> float:
    by_layer = routing_overlap(now, original)
    return float((by_layer.sum() + layers_below) / (len(by_layer) + layers_below))


def _top_k_sets(model: nn.Module, batches: list[Batch], first_layer: int) -> Tensor:
    sets = capture_routing(model, batches, top_k_sets=True, first_layer=first_layer).top_k_sets
    assert sets is not None
    return sets


def _batches(samples: Sequence[Sequence[int]], padding: int, batch_size: int = 32) -> list[Batch]:
    return list(by_length(samples, batch_size, padding))
