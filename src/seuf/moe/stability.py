"""Does a changed model still send its tokens to the experts the original sent them to?"""

from __future__ import annotations

from torch import Tensor, nn

from seuf.moe.batches import Batch, by_length, tokenize
from seuf.moe.models import LanguageModel
from seuf.moe.routing import routing_overlap, top_k_sets


class RoutingProbe:
    """Compares a model's choice of experts with the original's, on some samples of each set."""

    def __init__(
        self, model: nn.Module, forget: list[list[int]], retain: list[list[int]], padding: int
    ) -> None:
        self.batches = {"forget": _batches(forget, padding), "retain": _batches(retain, padding)}
        self.original = self._sets(model)

    def overlap(self, model: nn.Module) -> dict[str, float]:
        """Return the overlap of the top-k sets with the original's, on `forget` and `retain`."""
        now = self._sets(model)
        return {name: routing_overlap(now[name], sets) for name, sets in self.original.items()}

    def _sets(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: top_k_sets(model, batches) for name, batches in self.batches.items()}


def probe_of(
    base: LanguageModel, forget: list[str], retain: list[str], max_length: int, tokens: int
) -> RoutingProbe:
    """Return the probe of a model, in its original state, on the first tokens of both sets."""
    to_forget, to_keep = (
        first_tokens(tokenize(base.tokenizer, texts, max_length), tokens)
        for texts in (forget, retain)
    )
    return RoutingProbe(base.model, to_forget, to_keep, base.padding)


def first_tokens(samples: list[list[int]], tokens: int) -> list[list[int]]:
    """Return the first samples that together have at least so many tokens."""
    taken: list[list[int]] = []
    for sample in samples:
        if sum(map(len, taken)) >= tokens:
            break
        taken.append(sample)
    return taken


def _batches(samples: list[list[int]], padding: int, batch_size: int = 32) -> list[Batch]:
    return [batch for batch, _ in by_length(samples, batch_size, padding)]
