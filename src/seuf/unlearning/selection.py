"""Step 3 of Algorithm 1: choose experts by the routing of the two sets.

Three kinds of rules:

- A ranking, a row of `SELECTIONS` in `rankings.py`, with or without a rank as in `affinity_2`.
- `random_in:<rule>`, the control of any rule: as many experts, of the same layers, drawn from the
  others.
- `esft`: in every layer as many experts as reach a threshold together. Wang et al. 2024,
  https://arxiv.org/abs/2407.01906, `scripts/expert/generate_expert_config.py` of deepseek-ai/ESFT
  at 579a771.

Where `esft` departs from that script:

1. Scores are as published in its `results/expert_scores`: the mean gate of the tokens (`gate`, here
   Eq. 2's affinity) as it is, so that a layer's sum to less than 1, and the share of the layer's
   top-k slots (`token`), which sum to 1. The script divides both by the sums over layers (axis 0),
   which does not reproduce its own published scores.
2. A sum of floats that misses the threshold by its last bits has reached it.

Settings import this module in stages that never compute, so torch is imported only where needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from seuf.inputs import InputError, Settings
from seuf.unlearning.certainty import certainty_of, falling_positions, unstable
from seuf.unlearning.rankings import (
    COLUMNS,
    NEVER,
    RANDOM_IN,
    RULE_INPUTS,
    SELECTIONS,
    columns_of,
    inputs_of,
    random_expert,
    ranking_and_rank,
)

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.moe.routing import Routing

ESFT = "esft"
ESFT_ROUNDING = 1e-9  # .1 added eight times is less than .8


@dataclass(frozen=True)
class RoutingTable:
    """Routing of one set: the fields of a `seuf.moe.routing.Routing` that rules read.

    Attributes:
        layers: Decoder index of each MoE layer.
        affinity: Gate affinity of all samples, Eq. 2 (L, E).
        halves: Affinity of two halves of them (2, L, E); NaN where a half has no sample.
        token_share: Share of the tokens that went to each expert (L, E); rows sum to k.
        errors: Standard error of the affinity (L, E); None if unknown.
        subsets: Affinity of two subsets (2, L, E); None where a set is too small for them.
        gradient: Size of the loss's gradient on each expert (L, E); None if not captured.
        reap: Norm of each expert's outputs times their weights (L, E); None if not captured.
    """

    layers: list[int]
    affinity: Tensor
    halves: Tensor
    token_share: Tensor
    errors: Tensor | None = None
    subsets: Tensor | None = None
    gradient: Tensor | None = None
    reap: Tensor | None = None


@dataclass(frozen=True)
class Selection:
    """The experts that a rule chose.

    Attributes:
        experts: (layer, expert) pairs; layer is the index among all decoder layers.
        scores: The rule's score of each expert, best first; of ESFT best first in each layer.
        margin: Score of the last expert chosen minus that of the runner-up; None without one.
        runner_up: The best expert not chosen.
        margin_error: Standard error of the margin, see `certainty.margin_error`.
        stability_halves: Share of a layer's six best experts that both halves of the samples agree
            on, mean of the layers; with ESFT by gate, share of the experts chosen. None if a half
            has no sample, or the rule reads more than affinities.
        stability_subset: The same between all samples and a subset of 100,000 tokens, mean of two
            subsets (Table 8); None where the set is less than twice as large.
        stability_two_subsets: The same between the two subsets.
        warnings: Why the choice is uncertain: a near-tie, another choice by half of the samples, or
            a stability below the paper's.
    """

    experts: list[tuple[int, int]]
    scores: list[float] | None = None
    margin: float | None = None
    runner_up: tuple[int, int] | None = None
    margin_error: float | None = None
    stability_halves: float | None = None
    stability_subset: float | None = None
    stability_two_subsets: float | None = None
    warnings: list[str] = field(default_factory=list)


def is_rule(name: str) -> bool:
    """Tell if a name is that of a rule, so that no fixed expert may have it."""
    return name == ESFT or name.startswith(RANDOM_IN) or ranking_and_rank(name) is not None


def _check_rule(name: str) -> str:
    if not is_rule(name):
        raise InputError(
            f"{name!r} is no rule; rules are {', '.join(SELECTIONS)}, each with or without a rank "
            f"as in affinity_2, {ESFT}, and {RANDOM_IN}<rule>"
        )
    return name


Share = Annotated[float, Field(ge=0, le=1)]


class FixedExpert(Settings):
    """An expert named by hand."""

    layer: Annotated[int, Field(ge=0)]
    expert: Annotated[int, Field(ge=0)]


class SelectionSettings(Settings):
    """Which rules choose experts, and how many each.

    Attributes:
        rules: Rankings of `SELECTIONS`, `esft`, and `random_in:<rule>`. A ranking may have a rank:
            `affinity_2` takes the next `top` after the best, `random_3` the third draw.
        top: Experts that each ranking chooses, M; the paper finds 1 best.
        fixed: Experts chosen by hand; a method selects one by its name, like a rule.
        depths: Range of depths for `contrast_within`: of a layer's middle, 0 the model's beginning,
            1 its end.
        esft_threshold: Sum of scores that the experts of `esft` reach together in a layer, p.
        esft_score: `token`, share of the layer's top-k slots, or `gate`, affinity.
    """

    rules: list[Annotated[str, AfterValidator(_check_rule)]] = ["affinity", "contrast", "random"]
    top: Annotated[int, Field(gt=0)] = 1
    fixed: dict[str, FixedExpert] = {}
    depths: tuple[Share, Share] = (0.25, 0.75)
    esft_threshold: Annotated[float, Field(gt=0, le=1)] = 0.15
    esft_score: Literal["token", "gate"] = "token"

    @model_validator(mode="after")
    def _names_are_unambiguous(self) -> Self:
        for name in self.fixed:
            if is_rule(name):
                raise ValueError(f"fixed.{name} is the name of a rule; call this expert otherwise")
        for name in self.rules:
            controlled = name.removeprefix(RANDOM_IN)
            if controlled == name or controlled in self.fixed:
                continue
            if controlled.startswith(RANDOM_IN) or not is_rule(controlled):
                raise ValueError(f"{name!r}: {controlled!r} is neither a rule nor in `fixed`")
        return self


def select_experts(
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    settings: SelectionSettings,
    seed: int,
) -> dict[str, Selection]:
    """Return the choice of each rule, and the fixed experts, by name.

    Args:
        forget: Routing of the forget set.
        retain: Routing of the retain set.
        settings: The rules.
        seed: Decides random experts; a study's is from `seed_of_draw`.

    Raises:
        InputError: If a fixed expert is not in the model, a rank is beyond the experts of its rule,
            or a rule reads a column that was not captured.
    """
    chosen = {name: _fixed(name, settings, forget) for name in settings.fixed}
    for name in sorted(settings.rules, key=lambda name: name.startswith(RANDOM_IN)):
        controlled = name.removeprefix(RANDOM_IN)
        if controlled not in chosen:
            chosen[controlled] = (
                _esft(forget, settings)
                if controlled == ESFT
                else _ranked(controlled, forget, retain, settings, seed)
            )
        if controlled != name:
            chosen[name] = random_beside(chosen[controlled].experts, forget, seed)
    return {name: chosen[name] for name in (*settings.rules, *settings.fixed)}


def select(
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    rule: str = "affinity",
    seed: int = 0,
) -> Selection:
    """Return the choice of one rule, of one expert; see `SELECTIONS`."""
    return select_experts(forget, retain, SelectionSettings(rules=[rule]), seed)[rule]


def best_of_layers(
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    rule: str = "contrast",
    top: int = 1,
    every: int = 1,
) -> list[list[tuple[int, int]]]:
    """Return each layer's best experts by a rule, the layer of the best one first.

    Args:
        forget: Routing of the forget set.
        retain: Routing of the retain set.
        rule: A row of `SELECTIONS`.
        top: Number of experts of each layer.
        every: Take every n-th MoE layer, see `every_nth`.
    """
    inputs = rule_inputs(rule, forget, retain, SelectionSettings(), seed=0)
    falling = SELECTIONS[rule](**inputs).sort(dim=1, descending=True, stable=True)
    best = falling.values[:, 0].tolist()
    return [
        [(forget.layers[row], expert) for expert in falling.indices[row, :top].tolist()]
        for row in sorted(every_nth(len(forget.layers), every), key=lambda row: -best[row])
    ]


def every_nth(layers: int, every: int) -> range:
    """Return every n-th of a number of MoE layers, beginning in the middle of the first n."""
    return range((every - 1) // 2, layers, every)


def seed_of_draw(base_seed: int, seed: int) -> int:
    """Return the seed of random experts, a different one for each base model and seed."""
    digest = hashlib.blake2b(f"{base_seed} {seed}".encode(), digest_size=7).digest()
    return int.from_bytes(digest)


def random_beside(
    experts: Sequence[tuple[int, int]], forget: RoutingTable | Routing, seed: int
) -> Selection:
    """Return as many random experts of the same layers, none of them among those given.

    This control separates the choice of an expert from the choice of its layer.

    Raises:
        InputError: If a layer has too few others.
    """
    drawn: list[tuple[int, int]] = []
    scores = random_expert(forget.affinity, seed)
    for layer in dict.fromkeys(layer for layer, _ in experts):
        taken = {expert for index, expert in experts if index == layer}
        falling = scores[forget.layers.index(layer)].argsort(descending=True, stable=True).tolist()
        others = [(layer, expert) for expert in falling if expert not in taken]
        if len(others) < len(taken):
            raise InputError(
                f"Layer {layer} has {len(others)} other experts, too few for a random control of "
                f"{len(taken)}."
            )
        drawn += others[: len(taken)]
    return Selection(drawn)


def _fixed(name: str, settings: SelectionSettings, forget: RoutingTable | Routing) -> Selection:
    fixed, num_experts = settings.fixed[name], forget.affinity.shape[1]
    if fixed.layer not in forget.layers or fixed.expert >= num_experts:
        raise InputError(
            f"expert_selection.fixed.{name}: there is no expert {fixed.expert} in layer "
            f"{fixed.layer}; MoE layers are {forget.layers}, experts 0 to {num_experts - 1}."
        )
    return Selection([(fixed.layer, fixed.expert)])


def _ranked(
    name: str,
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    settings: SelectionSettings,
    seed: int,
) -> Selection:
    """Return the `top` experts of a ranking over all layers, or with a rank the next ones."""
    (ranking, rank), top = ranking_and_rank(_check_rule(name)) or ("", 0), settings.top
    inputs = rule_inputs(ranking, forget, retain, settings, seed)
    scores = SELECTIONS[ranking](**inputs)
    shape = getattr(scores, "shape", None)
    if shape != forget.affinity.shape or not bool((scores.isfinite() | (scores == NEVER)).all()):
        raise InputError(
            f"expert_selection.rules: {ranking!r} must return finite scores of shape "
            f"{tuple(forget.affinity.shape)}, -inf for experts that it never chooses; they are "
            f"{shape and tuple(shape)}, or not all finite."
        )
    total = int((scores != NEVER).sum())
    if top >= forget.affinity.numel():
        raise InputError(f"expert_selection.top is {top}; the model has {scores.numel()} experts.")
    if rank * top > total:
        raise InputError(
            f"expert_selection.rules: {name!r} takes the experts ranked {(rank - 1) * top + 1} to "
            f"{rank * top}; {ranking!r} ranks {total}. Name a lower rank."
        )

    def rescored(forget: Tensor, retain: Tensor) -> Tensor:
        affinities = {"forget": forget, "retain": retain}
        return SELECTIONS[ranking](**inputs | {n: affinities[n] for n in affinities if n in inputs})

    begin, end = (rank - 1) * top, rank * top
    positions = falling_positions(scores)
    order = [(forget.layers[p // scores.shape[1]], p % scores.shape[1]) for p in positions]
    values = scores.flatten()[positions].tolist()
    following = end if end < total else None
    # only affinities are known of parts of the samples
    of_affinities = not columns_of(ranking) and "seed" not in inputs
    return Selection(
        experts=order[begin:end],
        scores=values[begin:end],
        margin=None if following is None else values[end - 1] - values[following],
        runner_up=None if following is None else order[following],
        **(certainty_of(rescored, forget, retain, begin, end, following) if of_affinities else {}),
    )


def rule_inputs(
    ranking: str,
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    settings: SelectionSettings,
    seed: int,
) -> dict[str, Any]:
    """Return a ranking's arguments by name.

    Raises:
        InputError: If one is not among `RULE_INPUTS`, or was not captured.
    """
    import torch

    names = inputs_of(ranking)
    if unknown := sorted(names - {*RULE_INPUTS}):
        raise InputError(
            f"rule {ranking!r} asks for {', '.join(unknown)}; inputs are {', '.join(RULE_INPUTS)}"
        )
    layers = torch.tensor(forget.layers)[:, None]
    values: dict[str, Any] = {
        "forget": forget.affinity,
        "retain": retain.affinity,
        "depth": (layers + 0.5) / (layers.max() + 1),
        "depths": settings.depths,
        "seed": seed,
    }
    for column in COLUMNS:
        values[f"forget_{column}"] = getattr(forget, column)
        values[f"retain_{column}"] = getattr(retain, column)
        if f"forget_{column}" in names and getattr(forget, column) is None:
            raise InputError(
                f"rule {ranking!r} reads {column!r}, which was not captured: add it to "
                "routing_capture.columns."
            )
    return {name: values[name] for name in names}


def _esft(forget: RoutingTable | Routing, settings: SelectionSettings) -> Selection:
    by_gate = settings.esft_score == "gate"
    scores = forget.affinity if by_gate else slot_shares(forget.token_share)
    halves = list(forget.halves) if by_gate and not forget.halves.isnan().any() else []
    chosen, *by_half = (fewest_to_reach(s, settings.esft_threshold) for s in (scores, *halves))
    stability = choice_overlap(*by_half) if by_half else None
    warning = unstable({} if stability is None else {"stability_halves": stability})
    values = scores.tolist()
    positions = [(row, expert) for row, experts in enumerate(chosen) for expert in experts]
    return Selection(
        experts=[(forget.layers[row], expert) for row, expert in positions],
        scores=[values[row][expert] for row, expert in positions],
        stability_halves=stability,
        warnings=[warning] if warning else [],
    )


def slot_shares(token_share: Tensor) -> Tensor:
    """Return each expert's share of its layer's top-k slots, given its share of tokens (L, E)."""
    return token_share / token_share.sum(1, keepdim=True)


def fewest_to_reach(scores: Tensor, threshold: float) -> list[list[int]]:
    """Return each layer's experts by falling score until their sum reaches a threshold.

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


def most_to_reach(num_experts: int, settings: SelectionSettings) -> int:
    """Return the most experts that `esft` can take of a layer.

    By `token` it takes most where all shares are equal; by `gate` it may take all, since a layer
    may sum to less than p.
    """
    if settings.esft_score == "gate":
        return num_experts
    return max(1, math.ceil(num_experts * (settings.esft_threshold - ESFT_ROUNDING)))


def choice_overlap(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> float:
    """Return the number of experts in both choices over that in either; a choice is by layer."""
    first, second = (
        {(layer, expert) for layer, chosen in enumerate(choice) for expert in chosen}
        for choice in (one, other)
    )
    return len(first & second) / len(first | second)
