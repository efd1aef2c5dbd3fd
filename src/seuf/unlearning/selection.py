"""WHO may change: rules that choose experts from how the two sets are routed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seuf.errors import InputError
from seuf.unlearning.attribution import top_overlap
from seuf.unlearning.settings import FixedExpert, SelectionSettings

Rule = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Selection:
    """The experts a rule chose.

    Attributes:
        experts: (layer, expert) pairs; layer is the index among all decoder layers.
        scores: What the rule gave each of them, best first.
        margin: How far the last one chosen lies before the first one not chosen.
        runner_up: The first one not chosen.
        stability: Share of the rule's six best that both halves of the samples agree on; None
            if a half has no sample.
    """

    experts: list[tuple[int, int]]
    scores: list[float] | None = None
    margin: float | None = None
    runner_up: tuple[int, int] | None = None
    stability: float | None = None


@dataclass(frozen=True)
class Affinities:
    """Gate affinity on one set: of all samples (L, E), and of two halves of them (2, L, E)."""

    layers: list[int]
    all: Tensor
    halves: Tensor


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
        InputError: If an expert named by hand is not in the model.
    """
    chosen = {
        name: _select(SELECTIONS[name], forget, retain, settings.top, seed)
        for name in settings.rules
    }
    fixed = {name: _fixed(name, expert, forget) for name, expert in settings.fixed.items()}
    return chosen | fixed


def _select(rule: Rule, forget: Affinities, retain: Affinities, top: int, seed: int) -> Selection:
    scores = rule(forget.all, retain.all, seed)
    if top >= scores.numel():
        raise InputError(f"expert_selection.top is {top}; the model has {scores.numel()} experts.")
    even, odd = (rule(f, r, seed) for f, r in zip(forget.halves, retain.halves, strict=True))
    best = torch.topk(scores.flatten(), top + 1)
    ids = [_expert(int(i), forget.layers, scores.shape[1]) for i in best.indices]
    values = best.values.tolist()
    return Selection(
        experts=ids[:top],
        scores=values[:top],
        margin=values[top - 1] - values[top],
        runner_up=ids[top],
        stability=None if (even + odd).isnan().any() else top_overlap(even, odd),
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
