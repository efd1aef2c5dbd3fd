"""ESFT's choice: of every layer the fewest experts that together take a share of a set.

Wang et al. 2024, https://arxiv.org/abs/2407.01906; `scripts/expert/generate_expert_config.py` of
deepseek-ai/ESFT at 579a771. Where we depart from the released script:

1. A layer's scores are shares of that layer: each row sums to 1. The script divides by the sums
   over layers (axis 0), with which its own published scores and choices cannot be made again.
2. A sum of floats that misses the threshold by its last bits has reached it.
"""

from __future__ import annotations

import math

from torch import Tensor

ROUNDING = 1e-9  # .1 added eight times is less than .8


def shares_by_layer(scores: Tensor) -> Tensor:
    """Return scores (L, E) as shares of their layer: rows sum to 1."""
    return scores / scores.sum(1, keepdim=True)


def fewest_to_reach(scores: Tensor, threshold: float) -> list[list[int]]:
    """Return for each layer its experts by falling score, until their shares reach a threshold.

    An expert is taken while those before it have not reached the threshold: the first one always.

    Args:
        scores: (L, E), not negative.
        threshold: p, 0 < p <= 1.
    """
    falling = shares_by_layer(scores).sort(dim=1, descending=True, stable=True)
    before = falling.values.cumsum(1) - falling.values
    counts = (before < threshold - ROUNDING).sum(1).clamp(min=1).tolist()
    return [order[:count] for order, count in zip(falling.indices.tolist(), counts, strict=True)]


def most_to_reach(experts: int, threshold: float) -> int:
    """Return the most experts that a layer of so many can need: where all have equal shares."""
    return max(1, math.ceil(experts * (threshold - ROUNDING)))


def agreement(one: list[list[int]], other: list[list[int]]) -> float:
    """Return how much two choices have in common: the experts in both, of those in either."""
    first, second = (
        {(layer, expert) for layer, chosen in enumerate(choice) for expert in chosen}
        for choice in (one, other)
    )
    return len(first & second) / len(first | second)
