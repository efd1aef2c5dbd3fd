"""WHAT holds still: the router keeps sending forget tokens to the expert under treatment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seuf.moe.architectures import MoELayer, chosen_gates, gate_probabilities, moe_layers
from seuf.moe.routing import observed_routers
from seuf.unlearning.objectives import masked_mean


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
