"""WHAT may change: the tensors a method trains, and a promise about all the others."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor, nn

from seuf.errors import InputError
from seuf.moe.architectures import MoELayer, moe_layers
from seuf.moe.deltas import parameter_rows
from seuf.moe.experts import ExpertSlice

Experts = list[tuple[int, int]]


class Scope:
    """The tensors in training, by delta key, and the float32 copies the optimizer works on.

    Inside the context only these tensors get gradients. Small updates vanish in bfloat16, so a
    tensor of any other type than float32 has a float32 master; `write_back` copies it.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: dict[str, nn.Parameter],
        slices: Iterable[ExpertSlice] = (),
        row_masks: dict[str, Tensor] | None = None,
    ) -> None:
        self.model, self.trained, self.slices = model, trained, list(slices)
        self.row_masks = row_masks or {}
        self.masters = {name: _master(tensor) for name, tensor in trained.items()}

    def __enter__(self) -> Scope:
        self._stack = ExitStack()
        for parameter in self.model.parameters():
            self._stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        for tensor in self.trained.values():
            tensor.requires_grad_(True)
        for expert in self.slices:
            self._stack.enter_context(expert)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self.clear_gradients()

    def gradients_to_masters(self) -> list[Tensor]:
        """Hand each tensor's gradient to its master; return the masters."""
        for name, mask in self.row_masks.items():
            gradient = self.trained[name].grad
            if gradient is not None:
                gradient.mul_(mask)
        for name, tensor in self.trained.items():
            if self.masters[name] is not tensor and tensor.grad is not None:
                self.masters[name].grad = tensor.grad.float()
        return list(self.masters.values())

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the masters, rounded, into the model."""
        for name, tensor in self.trained.items():
            if self.masters[name] is not tensor:
                tensor.copy_(self.masters[name])

    def clear_gradients(self) -> None:
        """Forget all gradients."""
        for tensor in (*self.trained.values(), *self.masters.values()):
            tensor.grad = None

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the trained tensors."""
        return {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a snapshot back into the model and the masters."""
        for name, value in snapshot.items():
            self.trained[name].copy_(value)
            if self.masters[name] is not self.trained[name]:
                self.masters[name].copy_(value)

    def trained_share(self) -> float:
        """Return the share of the model's parameters that are in training."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        rows = {name: mask.float().mean().item() for name, mask in self.row_masks.items()}
        return sum(t.numel() * rows.get(name, 1.0) for name, t in self.trained.items()) / total


def everything(model: nn.Module) -> Scope:
    """Return the scope of all parameters."""
    return Scope(model, dict(model.named_parameters()))


def selected_experts(model: nn.Module, experts: Experts, router: str = "layer") -> Scope:
    """Return the scope of some experts and their routers.

    Args:
        model: A causal language model of a known MoE architecture.
        experts: (layer, expert) pairs.
        router: `layer` trains the router of each expert's layer, `row` only the experts' rows of
            it, `none` leaves it alone.

    Raises:
        InputError: If the model has no such expert.
    """
    layers = {layer.index: layer for layer in moe_layers(model)}
    names = {module: name for name, module in model.named_modules()}
    slices = [ExpertSlice(_layer(layers, index).experts, expert) for index, expert in experts]
    trained = {
        f"{names[part.experts]}.{name}[{part.index}]": tensor
        for part in slices
        for name, tensor in part.tensors.items()
    }
    routers = _routers(layers, names, experts) if router != "none" else {}
    masks = {name: _row_mask(tensor, rows) for name, (tensor, rows) in routers.items()}
    trained |= {name: tensor for name, (tensor, _) in routers.items()}
    return Scope(model, trained, slices, masks if router == "row" else None)


def changed_tensors(model: nn.Module, original: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors that no longer equal their original, bit by bit."""
    now = {name: parameter_rows(model, name) for name in original}
    return {name: t.clone() for name, t in now.items() if not _same_bits(t, original[name])}


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _master(tensor: nn.Parameter) -> nn.Parameter:
    return tensor if tensor.dtype == torch.float32 else nn.Parameter(tensor.detach().float())


def _layer(layers: dict[int, MoELayer], index: int) -> MoELayer:
    if index not in layers:
        raise InputError(f"Layer {index} is not a MoE layer; MoE layers are {sorted(layers)}.")
    return layers[index]


def _routers(
    layers: dict[int, MoELayer], names: dict[nn.Module, str], experts: Experts
) -> dict[str, tuple[nn.Parameter, list[int]]]:
    """Return the routers' parameters by name, each with the experts under treatment there."""
    return {
        f"{names[layers[index].router]}.{name}": (parameter, [e for i, e in experts if i == index])
        for index in sorted({index for index, _ in experts})
        for name, parameter in layers[index].router.named_parameters()
    }


def _row_mask(parameter: Tensor, rows: list[int]) -> Tensor:
    mask = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1)).to(parameter)
    mask[rows] = 1
    return mask
