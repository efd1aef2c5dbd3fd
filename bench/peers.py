"""What people run today: plain transformers, the fused tensor masked, everything computed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seuf.moe.architectures import decoder, moe_layers


class MaskedTraining:
    """AdamW on a layer's fused experts and router, the gradient of all experts but one set to zero.

    Args:
        model: Frozen but for that layer.
        layer: Decoder index.
        expert: Which row stays.
    """

    def __init__(self, model: Any, layer: int, expert: int) -> None:
        self.model, self.expert = model, expert
        found = next(one for one in moe_layers(model) if one.index == layer)
        self.fused = [p for p in found.experts.parameters() if len(p) == found.num_experts]
        self.trained = [*self.fused, *found.router.parameters()]
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, weight_decay=0.0)

    def step(self, loss: Tensor) -> None:
        """Take one step."""
        loss.backward()
        for parameter in self.fused:
            gradient: Any = parameter.grad
            kept = gradient[self.expert].clone()
            gradient.zero_()
            gradient[self.expert] = kept
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def close(self) -> None:
        """Freeze the layer again."""
        for parameter in self.trained:
            parameter.requires_grad_(False)


class WholeTraining:
    """AdamW on all parameters, in the type that they have.

    Args:
        model: All of it is trained until `close`.
    """

    def __init__(self, model: Any) -> None:
        self.trained = list(model.parameters())
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-6, weight_decay=0.0)

    def step(self, loss: Tensor) -> None:
        """Take one step."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def close(self) -> None:
        """Freeze the model again."""
        for parameter in self.trained:
            parameter.requires_grad_(False)


def gdiff(model: nn.Module, forget: Tensor, retain: Tensor) -> Callable[[], Tensor]:
    """Return the loss of gradient difference: two whole passes, all logits."""

    def nll(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits.float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    return lambda: -nll(forget) + nll(retain)


def rmu(
    model: Any, forget: Tensor, retain: Tensor, layer: int, coefficient: float
) -> Callable[[], Tensor]:
    """Return the loss of RMU as its authors compute it: three whole passes of two models."""
    reference = copy.deepcopy(model).requires_grad_(False)
    steering = coefficient * F.normalize(torch.rand(model.config.hidden_size), dim=0).to(
        forget.device
    )

    def activations(of: Any, ids: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = (
            decoder(of)
            .layers[layer]
            .register_forward_hook(
                lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
            )
        )
        of(input_ids=ids, use_cache=False)
        hook.remove()
        return seen[0].float()

    def loss() -> Tensor:
        with torch.no_grad():
            target = activations(reference, retain)
        pushed = (activations(model, forget) - steering).square().mean()
        return pushed + (activations(model, retain) - target).square().mean()

    return loss
