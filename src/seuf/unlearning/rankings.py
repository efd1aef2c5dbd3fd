"""Rules that rank experts: what each makes of how the two sets are routed, as pure functions.

A rule's parameters name what it is made of, see `RULE_INPUTS`; it returns scores (L, E), `NEVER`
for an expert that it does not choose. Another rule is one function and one row of `SELECTIONS`,
here or in a package of your own. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NEVER = -math.inf
RANDOM_IN = "random_in:"  # before the name of the rule that it is the control of
# What a rule may ask for, by name; (L, E) unless said otherwise.
RULE_INPUTS = (
    "forget",  # gate affinity on the forget set
    "retain",  # the same on the retain set
    "forget_gradient",  # size of the loss's gradient, where `routing_capture.columns` has it
    "retain_gradient",
    "forget_reap",  # norm of an expert's outputs times their weights, the same
    "retain_reap",
    "depth",  # where the middle of each layer lies, from 0 to 1 of the model, (L, 1)
    "depths",  # `expert_selection.depths`
    "seed",
)
COLUMNS = ("gradient", "reap")  # of the routing tables, on request


def affinity(forget: Tensor) -> Tensor:
    """Return the affinity on the forget set (L, E): the paper's rule."""
    return forget


def contrast(forget: Tensor, retain: Tensor) -> Tensor:
    """Return the affinity on the forget set minus that on the retain set (L, E).

    An expert that serves everything has a high affinity on both; this rule passes it over.
    """
    return forget - retain


def layer_affinity(forget: Tensor) -> Tensor:
    """Return the affinity of each layer's best expert: the layers in order, the paper's Table 5."""
    return best_of_each_layer(forget)


def layer_contrast(forget: Tensor, retain: Tensor) -> Tensor:
    """Return the contrast of each layer's best expert by contrast."""
    return best_of_each_layer(contrast(forget, retain))


def contrast_within(
    forget: Tensor, retain: Tensor, depth: Tensor, depths: tuple[float, float]
) -> Tensor:
    """Return the contrast (L, E) in layers of a range of depths, `NEVER` in the others.

    Args:
        forget: Affinity on the forget set (L, E).
        retain: The same on the retain set.
        depth: Where the middle of each layer lies, 0 to 1, (L, 1).
        depths: The least and the greatest that count.
    """
    outside = (depth < depths[0]) | (depth > depths[1])
    return contrast(forget, retain).masked_fill(outside, NEVER)


def gradient(forget_gradient: Tensor, retain_gradient: Tensor) -> Tensor:
    """Return how much more of the forget loss's gradient an expert has than of the retain loss's.

    Of the sizes (L, E) that `seuf.moe.importance.gradient_sizes` measures, as shares of the whole
    model's. Foster et al. 2024, https://arxiv.org/abs/2308.07707, take the ratio of the same
    squared gradients for each weight; where nothing uses an expert, a ratio is noise.
    """
    return forget_gradient / forget_gradient.sum() - retain_gradient / retain_gradient.sum()


def reap(forget_reap: Tensor) -> Tensor:
    """Return REAP's score on the forget set as a share of the layer's (L, E).

    See `seuf.moe.importance.weighted_norms`. REAP compares experts of one layer; outputs grow with
    the depth, so that of the scores themselves the last layers' are the largest.
    """
    return forget_reap / forget_reap.sum(1, keepdim=True)


def random_expert(forget: Tensor, seed: int) -> Tensor:
    """Return random scores (L, E): the paper's control."""
    import torch

    return torch.rand(forget.shape, generator=torch.Generator().manual_seed(seed))


def best_of_each_layer(scores: Tensor) -> Tensor:
    """Return scores (L, E) with `NEVER` for all but the best expert of each layer."""
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :1]  # of equals the first
    return scores.new_full(scores.shape, NEVER).scatter(1, best, scores.gather(1, best))


SELECTIONS: dict[str, Callable[..., Tensor]] = {
    "affinity": affinity,
    "contrast": contrast,
    "layer_affinity": layer_affinity,
    "layer_contrast": layer_contrast,
    "contrast_within": contrast_within,
    "gradient": gradient,
    "reap": reap,
    "random": random_expert,
}


def ranking_and_rank(rule: str) -> tuple[str, int] | None:
    """Return `affinity`, 2 of `affinity_2` and `affinity`, 1 of `affinity`; None of other names."""
    name, rank = rule, 1
    if (ranked := re.fullmatch("(.+)_([1-9][0-9]*)", rule)) and rule not in SELECTIONS:
        name, rank = ranked[1], int(ranked[2])
    return (name, rank) if name in SELECTIONS else None


def columns_of(rule: str) -> set[str]:
    """Return what a rule reads beside affinities: `gradient`, `reap`."""
    ranking, _ = ranking_and_rank(rule.removeprefix(RANDOM_IN)) or ("", 0)
    return {name for name in COLUMNS if f"forget_{name}" in inputs_of(ranking)}


def inputs_of(ranking: str) -> set[str]:
    """Return the names of a rule's parameters."""
    return {*inspect.signature(SELECTIONS[ranking]).parameters} if ranking else set()
