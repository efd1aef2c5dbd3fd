"""How certain a choice of experts is, given that other samples might have led to another one.

Stability is that of Zhuang et al. 2025, Table 8: the overlap of a layer's six best experts by the
whole set and by a subset of it, or by two subsets. The margin between the last expert chosen and
the next is compared with its standard error, from how much affinities vary between samples; experts
are taken as independent, which those of one layer are not quite. Torch is imported only where it is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from seuf.unlearning.rankings import NEVER

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.moe.routing import Routing
    from seuf.unlearning.selection import RoutingTable

STABILITY_TOP = 6  # experts of a layer that are compared, as in Table 8
LEAST_STABLE = 0.85  # the lowest in the paper's Table 8; below it a choice is called unstable
NEAR_TIE = 2.0  # standard errors

Rescored = Callable[["Tensor", "Tensor"], "Tensor"]  # affinity on forget and retain to scores


def certainty_of(
    rescored: Rescored,
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    begin: int,
    end: int,
    following: int | None,
) -> dict[str, Any]:
    """Return how certain the choice of some experts is, as fields of `Selection`.

    Args:
        rescored: Returns the rule's scores (L, E) by the affinities on the two sets.
        forget: Routing of the forget set.
        retain: Routing of the retain set.
        begin: Rank of the first expert chosen, from 0.
        end: Rank after the last one.
        following: Rank of the next one, if there is one.
    """
    scores = rescored(forget.affinity, retain.affinity)
    halves, subsets = (
        scores_by_part(rescored, forget, retain, part) for part in ("halves", "subsets")
    )
    known: dict[str, Any] = (
        {"stability_halves": mean_overlap(halves[0], halves[1])} if halves else {}
    )
    if subsets:
        known["stability_subset"] = mean(mean_overlap(scores, subset) for subset in subsets)
        known["stability_two_subsets"] = mean_overlap(subsets[0], subsets[1])
    near_tie = None
    if following is not None:
        order = falling_positions(scores)
        last, runner_up = order[end - 1], order[following]
        margin = float(scores.flatten()[last] - scores.flatten()[runner_up])
        error = margin_error(rescored, forget, retain, last, runner_up)
        known["margin_error"] = error
        if error is not None and margin < NEAR_TIE * error:
            near_tie = (
                f"a near-tie: the next expert is {margin:.4f} behind, with a standard error of "
                f"{error:.4f}"
            )
    warnings = near_tie, halves_differ(halves, forget.layers, begin, end), unstable(known)
    return known | {"warnings": [sentence for sentence in warnings if sentence]}


def halves_differ(
    halves: Sequence[Tensor], layers: Sequence[int], begin: int, end: int
) -> str | None:
    """Return a warning if the scores of the two halves choose different experts."""
    by_half = [set(falling_positions(half)[begin:end]) for half in halves]
    if not by_half or by_half[0] == by_half[1]:
        return None
    num_experts = halves[0].shape[1]
    first, second = (
        ", ".join(
            f"layer {layers[position // num_experts]} expert {position % num_experts}"
            for position in sorted(chosen)
        )
        for chosen in by_half
    )
    return f"the two halves of the samples choose differently: {first}; {second}"


def unstable(known: Mapping[str, float]) -> str | None:
    """Return a warning if samples agree less on the best experts than in the paper's Table 8.

    Args:
        known: Stabilities, by names of fields of `Selection`.
    """
    stability = known.get("stability_subset", known.get("stability_halves"))
    if stability is None or stability >= LEAST_STABLE:
        return None
    parts = "a subset and all" if "stability_subset" in known else "the two halves"
    return f"unstable: {parts} of the samples agree on {stability:.0%} of the best experts"


def falling_positions(scores: Tensor) -> list[int]:
    """Return the flat positions of all L E experts, the best first; of equals the first."""
    # a stable sort, so that no two ranks share an expert
    return scores.flatten().sort(descending=True, stable=True).indices.tolist()


def scores_by_part(
    rescored: Rescored, forget: RoutingTable | Routing, retain: RoutingTable | Routing, part: str
) -> list[Tensor]:
    """Return a rule's scores by each of the `halves` or `subsets`; none where one is unknown.

    A rule that reads one set alone has scores even where the other's parts are unknown.

    Args:
        rescored: Returns the rule's scores (L, E) by the affinities on the two sets.
        forget: Routing of the forget set.
        retain: Routing of the retain set.
        part: `halves` or `subsets`, the field with the parts' affinities, (S, L, E).
    """
    unknown = (forget.affinity.new_full(forget.affinity.shape, float("nan")),) * 2
    fields = [getattr(table, part) for table in (forget, retain)]
    affinities = [unknown if field is None or not len(field) else tuple(field) for field in fields]
    scores = [rescored(*of_part) for of_part in zip(*affinities, strict=True)]
    return [] if any(bool(of_part.isnan().any()) for of_part in scores) else scores


def mean_overlap(one: Tensor, other: Tensor, count: int = STABILITY_TOP) -> float:
    """Return the share of a layer's `count` best experts that two rankings share; mean of layers.

    Zhuang et al. 2025, Table 8. By chance it is count / E.

    Args:
        one: Scores (L, E). A layer, or an expert, that a rule never chooses is left out.
        other: Scores by other samples.
        count: Experts compared in each layer; fewer where either ranks fewer.
    """
    shares = []
    for rows in zip(one, other, strict=True):
        best = min(count, *(int((row != NEVER).sum()) for row in rows))
        first, second = (set(row.topk(best).indices.tolist()) for row in rows)
        if best:
            shares.append(len(first & second) / best)
    return mean(shares)


def margin_error(
    rescored: Rescored,
    forget: RoutingTable | Routing,
    retain: RoutingTable | Routing,
    chosen: int,
    following: int,
) -> float | None:
    """Return the standard error of the margin between two experts, by the delta method.

    For affinity it is sqrt(e1^2 + e2^2) with e the two experts' errors; contrast adds those of the
    retain set. None for a rule that is not made of affinities, or where errors are unknown.

    Args:
        rescored: Returns the rule's scores (L, E) by the affinities on the two sets.
        forget: Routing of the forget set.
        retain: Routing of the retain set.
        chosen: Flat position of the last expert chosen.
        following: Flat position of the next one.
    """
    import torch

    tables, variance = (forget, retain), 0.0
    with torch.enable_grad():
        affinities = [table.affinity.detach().clone().requires_grad_() for table in tables]
        scores = rescored(*affinities).flatten()
        margin = scores[chosen] - scores[following]
    if not margin.requires_grad:
        return None
    slopes = torch.autograd.grad(margin, affinities, allow_unused=True)
    for slope, table in zip(slopes, tables, strict=True):
        if slope is not None:
            if table.errors is None or bool(table.errors.isnan().any()):
                return None
            variance += float((slope * table.errors).square().sum())
    return variance**0.5
