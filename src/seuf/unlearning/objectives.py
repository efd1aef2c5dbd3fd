"""WHAT is minimised: the four objectives of the paper as pure functions.

An objective's parameters name what it needs (see `quantities`) and its keyword-only parameters
the numbers it takes from the settings. A fifth objective is one function and one row of
`OBJECTIVES`.

WHAT holds still: the router keeps sending forget tokens to the expert under treatment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seuf.moe.architectures import MoELayer, chosen_gates, gate_probabilities, moe_layers
from seuf.moe.routing import observed_routers


class TokenNLL(NamedTuple):
    """Negative log-likelihoods in nats (B, T), and which of them count (B, T), bool."""

    values: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Return the mean over all tokens of the batch."""
        return masked_mean(self.values, self.mask)

    def sums(self) -> Tensor:
        """Return the sum over each sequence's tokens (B,)."""
        return (self.values * self.mask).sum(-1)


class Hidden(NamedTuple):
    """Activations (B, T, d), and which of the tokens count (B, T), bool."""

    values: Tensor
    mask: Tensor

    def distance(self, target: Tensor) -> Tensor:
        """Return the mean squared distance of all tokens' activations to a target."""
        return masked_mean((self.values - target).square().mean(-1), self.mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values that count; a GPU is not asked how many these are."""
    return (values * mask).sum() / mask.sum()


def ga(forget_nll: TokenNLL) -> Tensor:
    """Return the gradient-ascent loss: minus the mean token NLL of the forget batch.

    As open-unlearning d3d7cf9, unlearn/grad_ascent.py.
    """
    return -forget_nll.mean()


def gdiff(forget_nll: TokenNLL, retain_nll: TokenNLL, *, retain_weight: float) -> Tensor:
    """Return the gradient-difference loss: ascent on forget, descent on retain.

    As open-unlearning d3d7cf9, unlearn/grad_diff.py, with retain loss NLL.
    """
    return -forget_nll.mean() + retain_weight * retain_nll.mean()


def npo(
    forget_nll: TokenNLL,
    forget_reference_nll: Tensor,
    retain_nll: TokenNLL,
    *,
    npo_beta: float,
    retain_weight: float,
) -> Tensor:
    """Return the negative-preference loss, with log-likelihoods summed over each sequence.

    As open-unlearning d3d7cf9, utils.py (`compute_dpo_loss`) and unlearn/npo.py.

    Args:
        forget_nll: Of the model in training.
        forget_reference_nll: Each forget sequence's NLL sum under the original model (B,).
        retain_nll: Of the model in training.
        npo_beta: Inverse temperature; small values approach gradient ascent.
        retain_weight: Weight of the retain NLL.
    """
    log_ratio = forget_nll.sums() - forget_reference_nll
    forget = -2 / npo_beta * F.logsigmoid(npo_beta * log_ratio).mean()
    return forget + retain_weight * retain_nll.mean()


def rmu(
    forget_hidden: Hidden,
    retain_hidden: Hidden,
    retain_reference_hidden: Tensor,
    steering: Tensor,
    *,
    rmu_retain_weight: float,
) -> Tensor:
    """Return the representation-misdirection loss.

    Pushes forget activations to `steering` and holds retain activations where they were. As
    centerforaisafety/wmdp, rmu/unlearn.py, but padding is not counted.

    Args:
        forget_hidden: Activations of the steered layer.
        retain_hidden: The same on the retain batch.
        retain_reference_hidden: The original model's, (B, T, d).
        steering: Target of every forget token, c * u, (d,).
        rmu_retain_weight: Weight of the retain term.
    """
    forget = forget_hidden.distance(steering)
    return forget + rmu_retain_weight * retain_hidden.distance(retain_reference_hidden)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"ga": ga, "gdiff": gdiff, "npo": npo, "rmu": rmu}


def anchor_loss(gates: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return ||g - a||^2, averaged over tokens (Zhuang et al. 2025, Eq. 3).

    Args:
        gates: Gate probabilities of the layer (N, E): the full softmax, or zero outside the
            top-k as in Eq. 1. With the latter a token that is not routed to the target gives the
            router little gradient, or none.
        target: a of Eq. 3 (E,), see `anchor_target`.
        mask: Which of the N tokens count, bool.
    """
    return masked_mean((gates - target).square().sum(-1), mask)


def anchor_target(num_experts: int, experts: list[int]) -> Tensor:
    """Return a of Eq. 3: 1/M on each of the M experts under treatment, 0 elsewhere, (E,)."""
    target = torch.zeros(num_experts)
    target[experts] = 1 / len(experts)
    return target


class Anchor:
    """Measures the anchor loss of the layers under treatment while forget batches pass.

    Args:
        layers: The layers under treatment.
        experts: For each of them, its experts under treatment.
        on: `softmax` anchors all probabilities, `topk` those of the chosen experts only.
    """

    def __init__(self, layers: list[MoELayer], experts: list[list[int]], on: str) -> None:
        self.layers, self.on = layers, on
        self.targets = [
            anchor_target(layer.num_experts, chosen).to(next(layer.router.parameters()).device)
            for layer, chosen in zip(layers, experts, strict=True)
        ]
        self._losses: list[Tensor] = []

    @contextmanager
    def watching(self, mask: Tensor) -> Iterator[None]:
        """Measure what passes inside the context; `mask` (B, T) of bool says which tokens count."""
        self._losses.clear()

        def observe(position: int, output: tuple[Tensor, ...]) -> None:
            layer = self.layers[position]
            if self.on == "topk":
                gates, _ = chosen_gates(layer, output)
            else:
                gates = gate_probabilities(layer, output)
            kept = mask.flatten().to(gates.device)
            self._losses.append(anchor_loss(gates, self.targets[position], kept))

        with observed_routers(self.layers, observe):
            yield

    def loss(self) -> Tensor:
        """Return the mean over layers of what was last measured, once."""
        losses, self._losses = self._losses, []
        return torch.stack(losses).mean()


def anchor_for(model: nn.Module, experts: list[tuple[int, int]], on: str) -> Anchor:
    """Return the anchor of (layer, expert) pairs."""
    treated = {index for index, _ in experts}
    layers = [layer for layer in moe_layers(model) if layer.index in treated]
    return Anchor(layers, [[e for i, e in experts if i == layer.index] for layer in layers], on)
