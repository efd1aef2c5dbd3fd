"""Step 3 of Algorithm 1: rules that choose experts from how the two sets are routed.

A rule that ranks all experts of the model is one function and one row of `SELECTIONS`; it may be
asked for a rank, as in `affinity_2`. `esft` chooses of every layer as many experts as it takes:
Wang et al. 2024, https://arxiv.org/abs/2407.01906, `scripts/expert/generate_expert_config.py` of
deepseek-ai/ESFT at 579a771. Where we depart from that script:

1. Scores are as published in its `results/expert_scores`: the mean gate of the tokens (`gate`, here
   Eq. 2's affinity) as it is, so that a layer's sum to less than 1, and the share of the layer's
   top-k slots (`token`), which sum to 1. The script divides both by the sums over layers (axis 0),
   with which its own published scores cannot be made again.
2. A sum of floats that misses the threshold by its last bits has reached it.

Settings read the table in stages that never compute, so nothing here imports torch before it is
needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from seuf.inputs import InputError, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.moe.routing import Routing

ESFT = "esft"
ESFT_ROUNDING = 1e-9  # .1 added eight times is less than .8
STABILITY_TOP = 6  # experts compared between two halves, as in Table 8


@dataclass(frozen=True)
class RoutingTable:
    """How one set is routed: what rules see of a `seuf.moe.routing.Routing`.

    Attributes:
        layers: Decoder index of each MoE layer.
        affinity: Gate affinity of all samples, Eq. 2 (L, E).
        halves: That of two halves of them (2, L, E); NaN where a half has no sample.
        token_share: Share of the tokens that went to each expert (L, E); rows sum to k.
    """

    layers: list[int]
    affinity: Tensor
    halves: Tensor
    token_share: Tensor


@dataclass(frozen=True)
class Selection:
    """The experts that a rule chose.

    Attributes:
        experts: (layer, expert) pairs; layer is the index among all decoder layers.
        scores: What the rule gave each of them, best first; of ESFT best first in each layer.
        margin: Score of the last one chosen minus that of the next one; None where there is none.
        runner_up: The next one.
        stability: Share of the ranking's six best that both halves of the samples agree on; of
            ESFT by affinity, of all that a half chooses. None if a half has no sample.
    """

    experts: list[tuple[int, int]]
    scores: list[float] | None = None
    margin: float | None = None
    runner_up: tuple[int, int] | None = None
    stability: float | None = None


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
    import torch

    return torch.rand(forget.shape, generator=torch.Generator().manual_seed(seed))


SELECTIONS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "affinity": affinity,
    "contrast": contrast,
    "random": random_expert,
}


def ranking_and_rank(rule: str) -> tuple[str, int] | None:
    """Return `affinity`, 2 of `affinity_2` and `affinity`, 1 of `affinity`; None of other names."""
    name, rank = rule, 1
    if (ranked := re.fullmatch("(.+)_([1-9][0-9]*)", rule)) and rule not in SELECTIONS:
        name, rank = ranked[1], int(ranked[2])
    return (name, rank) if name in SELECTIONS else None


def is_rule(name: str) -> bool:
    """Tell a rule from what an expert named by hand may be called."""
    return name == ESFT or ranking_and_rank(name) is not None


def _check_rule(name: str) -> str:
    if not is_rule(name):
        raise InputError(
            f"{name!r} is no rule; rules are {', '.join(SELECTIONS)}, each with or without a rank "
            f"as in affinity_2, and {ESFT}"
        )
    return name


class FixedExpert(Settings):
    """An expert named by hand."""

    layer: Annotated[int, Field(ge=0)]
    expert: Annotated[int, Field(ge=0)]


class SelectionSettings(Settings):
    """Which rules choose experts, and how many each.

    Attributes:
        rules: Rankings of `SELECTIONS`, and `esft`. A ranking may carry a rank: `affinity_2` takes
            the next `top` after the best, `random_3` the third draw.
        top: Experts each ranking chooses, M; the paper finds 1 best.
        fixed: Experts named by hand; the name is used like a rule.
        esft_threshold: Sum of scores that the experts of `esft` reach together in a layer, p.
        esft_score: `token`, share of the layer's top-k slots, or `gate`, affinity.
    """

    rules: list[Annotated[str, AfterValidator(_check_rule)]] = ["affinity", "contrast", "random"]
    top: Annotated[int, Field(gt=0)] = 1
    fixed: dict[str, FixedExpert] = {}
    esft_threshold: Annotated[float, Field(gt=0, le=1)] = 0.15
    esft_score: Literal["token", "gate"] = "token"

    @model_validator(mode="after")
    def _fixed_have_names_of_their_own(self) -> Self:
        for name in self.fixed:
            if is_rule(name):
                raise ValueError(f"fixed.{name} is the name of a rule; call this expert otherwise")
        return self


def select_experts(
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    settings: SelectionSettings,
    seed: int,
) -> dict[str, Selection]:
    """Return what each rule chooses, and the experts named by hand, by the rule's name.

    Raises:
        InputError: If an expert named by hand is not in the model, or a rank is beyond its experts.
    """
    chosen: dict[str, Selection] = {}
    for name in settings.rules:
        if name == ESFT:
            chosen[name] = _esft(forget, settings)
        else:
            chosen[name] = _ranked(name, forget, retain, settings.top, seed)
    experts = forget.affinity.shape[1]
    for name, fixed in settings.fixed.items():
        if fixed.layer not in forget.layers or fixed.expert >= experts:
            raise InputError(
                f"expert_selection.fixed.{name}: there is no expert {fixed.expert} in layer "
                f"{fixed.layer}; MoE layers are {forget.layers}, experts 0 to {experts - 1}."
            )
        chosen[name] = Selection([(fixed.layer, fixed.expert)])
    return chosen


def select(
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    rule: str = "affinity",
    seed: int = 0,
) -> Selection:
    """Return the one expert that a rule chooses, see `SELECTIONS`."""
    return select_experts(forget, retain, SelectionSettings(rules=[rule]), seed)[rule]


def _ranked(
    name: str,
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    top: int,
    seed: int,
) -> Selection:
    """Return the rank-th `top` experts of a ranking over all layers."""
    ranking, rank = ranking_and_rank(_check_rule(name)) or ("", 0)
    total, rule = forget.affinity.numel(), SELECTIONS[ranking]
    if top >= total:
        raise InputError(f"expert_selection.top is {top}; the model has {total} experts.")
    if rank * top > total:
        raise InputError(
            f"expert_selection.rules: {name!r} takes the experts ranked {(rank - 1) * top + 1} to "
            f"{rank * top}; the model has {total}. Name a lower rank."
        )
    scores = rule(forget.affinity, retain.affinity, seed)
    shape = getattr(scores, "shape", None)
    if shape != forget.affinity.shape or not bool(scores.isfinite().all()):
        raise InputError(
            f"expert_selection.rules: {ranking!r} must return finite scores of shape "
            f"{tuple(forget.affinity.shape)}; they are {shape and tuple(shape)}, or not all finite."
        )
    even, odd = (rule(f, r, seed) for f, r in zip(forget.halves, retain.halves, strict=True))
    # Stable: of equals the first comes first whatever the rank, so no two ranks share an expert.
    falling = scores.flatten().sort(descending=True, stable=True)
    values, experts = falling.values.tolist(), scores.shape[1]
    order = [(forget.layers[p // experts], p % experts) for p in falling.indices.tolist()]
    end = rank * top
    return Selection(
        experts=order[end - top : end],
        scores=values[end - top : end],
        margin=values[end - 1] - values[end] if end < total else None,
        runner_up=order[end] if end < total else None,
        stability=None if (even + odd).isnan().any() else top_overlap(even, odd),
    )


def top_overlap(one: Tensor, other: Tensor, count: int = STABILITY_TOP) -> float:
    """Return the share of the `count` highest scores that two score matrices have in common.

    Zhuang et al. 2025, Table 8.
    """
    count = min(count, one.numel())
    first, second = (set(scores.flatten().topk(count).indices.tolist()) for scores in (one, other))
    return len(first & second) / count


def _esft(forget: RoutingTable | Routing, settings: SelectionSettings) -> Selection:
    by_gate = settings.esft_score == "gate"
    scores = forget.affinity if by_gate else slot_shares(forget.token_share)
    halves = list(forget.halves) if by_gate and not forget.halves.isnan().any() else []
    chosen, *by_half = (fewest_to_reach(s, settings.esft_threshold) for s in (scores, *halves))
    values = scores.tolist()
    positions = [(row, expert) for row, experts in enumerate(chosen) for expert in experts]
    return Selection(
        experts=[(forget.layers[row], expert) for row, expert in positions],
        scores=[values[row][expert] for row, expert in positions],
        stability=choice_overlap(*by_half) if by_half else None,
    )


def slot_shares(token_share: Tensor) -> Tensor:
    """Return shares of tokens (L, E), which sum to k in a layer, as shares of its top-k slots."""
    return token_share / token_share.sum(1, keepdim=True)


def fewest_to_reach(scores: Tensor, threshold: float) -> list[list[int]]:
    """Return for each layer its experts by falling score, until their sum reaches a threshold.

    An expert is taken while those before it have not reached the threshold: the first one always,
    and all of a layer that sums to less.

    Args:
        scores: (L, E), not negative.
        threshold: p, 0 < p <= 1.
    """
    falling = scores.sort(dim=1, descending=True, stable=True)
    before = falling.values.cumsum(1) - falling.values
    counts = (before < threshold - ESFT_ROUNDING).sum(1).clamp(min=1).tolist()
    return [order[:count] for order, count in zip(falling.indices.tolist(), counts, strict=True)]


def most_to_reach(experts: int, settings: SelectionSettings) -> int:
    """Return the most experts that `esft` can take of a layer of so many.

    By `token` those of equal shares; by `gate` all, since a layer may sum to less than p.
    """
    if settings.esft_score == "gate":
        return experts
    return max(1, math.ceil(experts * (settings.esft_threshold - ESFT_ROUNDING)))


def choice_overlap(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Return the share of the experts in either choice, by layer, that are in both."""
    first, second = (
        {(layer, expert) for layer, chosen in enumerate(choice) for expert in chosen}
        for choice in (one, other)
    )
    return len(first & second) / len(first | second)
