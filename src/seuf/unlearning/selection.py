"""ESFT's choice: of every layer the fewest experts that together take a share of a set.

Wang et al. 2024, https://arxiv.org/abs/2407.01906; `scripts/expert/generate_expert_config.py` of
deepseek-ai/ESFT at 579a771. Where we depart from the released script:

1. A layer's scores are shares of that layer: each row sums to 1. The script divides by the sums
   over layers (axis 0), with which its own published scores and choices cannot be made again.
2. A sum of floats that misses the threshold by its last bits has reached it.

WHO may change: rules that choose experts from how the two sets are routed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seuf.inputs import InputError
from seuf.unlearning.attribution import top_overlap
from seuf.unlearning.settings import ESFT, FixedExpert, SelectionSettings, ranking_and_rank

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


Rule = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Selection:
    """The experts a rule chose.

    Attributes:
        experts: (layer, expert) pairs; layer is the index among all decoder layers.
        scores: What the rule gave each of them, best first; of ESFT best first in each layer.
        margin: How far the last one chosen lies before the next one; None where there is none.
        runner_up: The next one.
        stability: Share of the ranking's six best that both halves of the samples agree on; of
            ESFT by affinity, of all that a half chooses. None if a half has no sample.
    """

    experts: list[tuple[int, int]]
    scores: list[float] | None = None
    margin: float | None = None
    runner_up: tuple[int, int] | None = None
    stability: float | None = None


@dataclass(frozen=True)
class Affinities:
    """How one set is routed.

    Attributes:
        layers: Decoder index of each MoE layer.
        all: Gate affinity of all samples (L, E).
        halves: That of two halves of them (2, L, E).
        token_share: Share of a layer's top-k slots that went to each expert (L, E).
    """

    layers: list[int]
    all: Tensor
    halves: Tensor
    token_share: Tensor


def affinity(forget: Tensor, retain: Tensor, seed: int) -> Tensor:
    """Return the affinity on the forget set (L, E): the paper's rule."""
    return forget


def contrast(forget: Tensor, retain: Tensor, seed: int) -> Tensor:
    """Return the affinity on the forget set minus that on the retain set (L, E).

    An expert that serves everything has a high affinity on both; this rule passes it over.
    """
    return forget - retain


def random_expert(forget: Tensor, retain: Tensor, seed: int) -> Tensor:
    """Return random scores (L, E): the paper's control."""
    return torch.rand(forget.shape, generator=torch.Generator().manual_seed(seed))


SELECTIONS: dict[str, Rule] = {
    "affinity": affinity,
    "contrast": contrast,
    "random": random_expert,
}


def select_experts(
    forget: Affinities, retain: Affinities, settings: SelectionSettings, seed: int
) -> dict[str, Selection]:
    """Return what each rule chooses, and the experts named by hand, by the rule's name.

    Raises:
        InputError: If an expert named by hand is not in the model, or a rank is beyond its experts.
    """
    chosen = {name: _by_rule(name, forget, retain, settings, seed) for name in settings.rules}
    fixed = {name: _fixed(name, expert, forget) for name, expert in settings.fixed.items()}
    return chosen | fixed


def _by_rule(
    name: str, forget: Affinities, retain: Affinities, settings: SelectionSettings, seed: int
) -> Selection:
    if name == ESFT:
        return _esft(forget, settings)
    found = ranking_and_rank(name)
    assert found is not None  # SelectionSettings refuses other names
    ranking, rank = found
    ranks = _ranks(name, rank, settings.top, forget.all.numel())
    return _ranked(SELECTIONS[ranking], forget, retain, ranks, seed)


def _ranks(name: str, rank: int, top: int, experts: int) -> slice:
    """Return the places of the rank-th `top` experts, counted from 0."""
    if top >= experts:
        raise InputError(f"expert_selection.top is {top}; the model has {experts} experts.")
    if rank * top > experts:
        raise InputError(
            f"expert_selection.rules: {name!r} takes the experts ranked {(rank - 1) * top + 1} to "
            f"{rank * top}; the model has {experts}. Name a lower rank."
        )
    return slice((rank - 1) * top, rank * top)


def _ranked(
    rule: Rule, forget: Affinities, retain: Affinities, ranks: slice, seed: int
) -> Selection:
    scores = rule(forget.all, retain.all, seed)
    even, odd = (rule(f, r, seed) for f, r in zip(forget.halves, retain.halves, strict=True))
    # Stable: of equals the first comes first whatever the rank, so no two ranks share an expert.
    falling = scores.flatten().sort(descending=True, stable=True)
    values = falling.values.tolist()
    ids = [_expert(place, forget.layers, scores.shape[1]) for place in falling.indices.tolist()]
    last, following = ranks.stop - 1, ids[ranks.stop :]
    return Selection(
        experts=ids[ranks],
        scores=values[ranks],
        margin=values[last] - values[last + 1] if following else None,
        runner_up=following[0] if following else None,
        stability=None if (even + odd).isnan().any() else top_overlap(even, odd),
    )


def _esft(forget: Affinities, settings: SelectionSettings) -> Selection:
    by_gate = settings.esft_score == "gate"
    scores = forget.all if by_gate else forget.token_share
    halves = list(forget.halves) if by_gate and not forget.halves.isnan().any() else []
    chosen, *by_half = (fewest_to_reach(s, settings.esft_threshold) for s in (scores, *halves))
    shares = shares_by_layer(scores).tolist()
    places = [(row, expert) for row, experts in enumerate(chosen) for expert in experts]
    return Selection(
        experts=[(forget.layers[row], expert) for row, expert in places],
        scores=[shares[row][expert] for row, expert in places],
        stability=agreement(*by_half) if by_half else None,
    )


def _expert(position: int, layers: list[int], experts: int) -> tuple[int, int]:
    return layers[position // experts], position % experts


def _fixed(name: str, chosen: FixedExpert, forget: Affinities) -> Selection:
    experts = forget.all.shape[1]
    if chosen.layer not in forget.layers or chosen.expert >= experts:
        raise InputError(
            f"expert_selection.fixed.{name}: there is no expert {chosen.expert} in layer "
            f"{chosen.layer}; MoE layers are {forget.layers}, experts 0 to {experts - 1}."
        )
    return Selection([(chosen.layer, chosen.expert)])
