"""Rules that rank experts by the routing of the two sets, as pure functions.

A rule's parameters name its inputs, see `RULE_INPUTS`; it returns scores (L, E), `NEVER` for an
expert that it does not choose. To add a rule, write one function and one row of `SELECTIONS`, here
or in a package of your own. Torch is imported only where it is needed.
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
RANDOM_IN = "random_in:"  # before the name of a rule: the random control of that rule
# The inputs that a rule may take, by name; (L, E) unless said otherwise.
RULE_INPUTS = (
    "forget",  # gate affinity on the forget set
    "retain",  # the same on the retain set
    "forget_gradient",  # size of the loss's gradient, if in `routing_capture.columns`
    "retain_gradient",
    "forget_reap",  # norm of an expert's outputs times their weights, if in the same
    "retain_reap",
    "depth",  # of each layer's middle, from 0 to 1 of the model, (L, 1)
    "depths",  # `expert_selection.depths`
    "seed",
)
COLUMNS = ("gradient", "reap")  # of the routing tables, only if asked for


def affinity(forget: Tensor) -> Tensor:
    """Return the affinity on the forget set (L, E): the paper's rule."""
    return forget


def contrast(forget: Tensor, retain: Tensor) -> Tensor:
    """Return the affinity on the forget set minus that on the retain set (L, E).

    An expert that serves everything has a high affinity on both; this rule passes it over.
    """
    return forget - retain


def layer_affinity(forget: Tensor) -> Tensor:
    """Return the affinity of each layer's best expert, which ranks layers: the paper's Table 5."""
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
        depth: Depth of each layer's middle, 0 to 1, (L, 1).
        depths: The range, both ends included.
    """
    outside = (depth < depths[0]) | (depth > depths[1])
    return contrast(forget, retain).masked_fill(outside, NEVER)


def gradient(forget_gradient: Tensor, retain_gradient: Tensor) -> Tensor:
    """Return an expert's share of the forget loss's gradient minus that of the retain loss's.

    Shares of the whole model's sum, of sizes (L, E) from `seuf.moe.importance.gradient_sizes`.
    Foster et al. 2024, https://arxiv.org/abs/2308.07707, take the ratio of the same squared
    gradients for each weight; for an expert that is hardly used, a ratio is noise.
    """
    return forget_gradient / forget_gradient.sum() - retain_gradient / retain_gradient.sum()


def reap(forget_reap: Tensor) -> Tensor:
    """Return REAP's score on the forget set as a share of the layer's (L, E).

    See `seuf.moe.importance.weighted_norms`. REAP compares experts of one layer; we take shares
    because outputs grow with depth, so that the last layers have the largest scores.
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
    """Return ("affinity", 2) for `affinity_2`, ("affinity", 1) for `affinity`; None if no rule."""
    name, rank = rule, 1
    if (ranked := re.fullmatch("(.+)_([1-9][0-9]*)", rule)) and rule not in SELECTIONS:
        name, rank = ranked[1], int(ranked[2])
    return (name, rank) if name in SELECTIONS else None


def columns_of(rule: str) -> set[str]:
    """Return which of `COLUMNS` a rule reads."""
    ranking, _ = ranking_and_rank(rule.removeprefix(RANDOM_IN)) or ("", 0)
    return {name for name in COLUMNS if f"forget_{name}" in inputs_of(ranking)}


def inputs_of(ranking: str) -> set[str]:
    """Return the names of a rule's parameters."""
    return {*inspect.signature(SELECTIONS[ranking]).parameters} if ranking else set()
