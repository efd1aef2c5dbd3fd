"""The anchor loss of Eq. 3: it keeps the router sending forget tokens to the selected experts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from seuf.moe.architectures import chosen_gates, gate_probabilities, moe_layers
from seuf.moe.routing import observed_routers
from seuf.unlearning.objectives import masked_mean
from seuf.unlearning.settings import Experts


def anchor_loss(gates: Tensor, target: Tensor, mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Return ||g - a||^2, averaged over tokens (Zhuang et al. 2025, Eq. 3).

    Args:
        gates: Gate probabilities of the layer (N, E): the full softmax, or zero outside the
            top-k as in Eq. 1. With the latter a token that is not routed to the target gives the
            router little gradient, or none.
        target: a of Eq. 3 (E,): 1 on each of the selected experts of the layer, 0 elsewhere.
        mask: Which of the N tokens count, bool.
        total: How many tokens count in the whole step if these are a part; see `masked_mean`.
    """
    return masked_mean((gates - target).square().sum(-1), mask, total)


class Anchor:
    """Measures the anchor loss of the selected experts' routers while forget batches pass.

    Args:
        model: The model.
        experts: (layer, expert) pairs; without any the loss is 0.
        on: `softmax` anchors all probabilities, `topk` those of the chosen experts only.
        target: `one` sets a of Eq. 3 to 1 on each selected expert of a layer; `share` divides the 1
            among them.
    """

    def __init__(
        self, model: nn.Module, experts: Experts, on: str = "softmax", target: str = "one"
    ) -> None:
        self.on, anchored = on, {index for index, _ in experts}
        self.layers = [layer for layer in moe_layers(model) if layer.index in anchored]
        self.targets: list[Tensor] = []  # a of Eq. 3 for each layer, (E,)
        for layer in self.layers:
            selected = [expert for index, expert in experts if index == layer.index]
            a = torch.zeros(layer.num_experts)
            a[selected] = 1 / len(selected) if target == "share" else 1.0
            self.targets.append(a.to(next(layer.router.parameters()).device))
        self._losses: list[Tensor] = []

    @contextmanager
    def watching(self, mask: Tensor, whole: Tensor | None = None) -> Iterator[None]:
        """Measure the loss in forward passes inside the context.

        Args:
            mask: Which tokens count, (B, T), bool.
            whole: The mask of the step's whole batch, over which the mean is taken; default `mask`.
        """
        self._losses.clear()
        total = (mask if whole is None else whole).sum()

        def observe(position: int, output: tuple[Tensor, ...]) -> None:
            layer = self.layers[position]
            if self.on == "topk":
                gates, _ = chosen_gates(layer, output)
            else:
                gates = gate_probabilities(layer, output)
            counted = mask.flatten().to(gates.device)
            target = self.targets[position]
            self._losses.append(anchor_loss(gates, target, counted, total.to(gates.device)))

        with observed_routers(self.layers, observe):
            yield

    def loss(self, device: torch.device) -> Tensor:
        """Return the mean over layers of the losses last measured, and forget them."""
        losses, self._losses = self._losses, []
        if not losses:
            return torch.zeros((), device=device)
        return torch.stack([loss.to(losses[0].device) for loss in losses]).mean().to(device)
