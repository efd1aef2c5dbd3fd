"""WHAT may change: the tensors a method trains, and a promise about all the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from seuf.errors import InputError
from seuf.moe.architectures import MoELayer, moe_layers
from seuf.moe.experts import ExpertSlice
from seuf.moe.places import place_of_row, rows_of_experts, same_bits, storage
from seuf.moe.residence import is_offloaded
from seuf.unlearning.parts import part_of

Experts = list[tuple[int, int]]


class Scope:
    """The tensors in training, by place, and the float32 copies the optimizer works on.

    Inside the context only these tensors get gradients. Small updates vanish in bfloat16, so a
    tensor of a coarser type than float32 has a float32 master; `write_back` copies it.

    Args:
        model: The model.
        whole: Parameters that are trained as a whole, by name.
        slices: Experts that are trained, by the name of their module.
        row_masks: Of some whole parameters, 1 on the rows that may change.
        first_layer: First decoder layer that may change.
    """

    def __init__(
        self,
        model: nn.Module,
        whole: dict[str, nn.Parameter],
        slices: Iterable[tuple[str, ExpertSlice]] = (),
        row_masks: dict[str, Tensor] | None = None,
        first_layer: int = 0,
    ) -> None:
        self.model, self.whole, self.row_masks = model, whole, row_masks or {}
        self.first_layer, self.slices = first_layer, [part for _, part in slices]
        self.trained: dict[str, Tensor] = dict(whole)
        self.masters = {name: _master(parameter) for name, parameter in whole.items()}
        for module, part in slices:
            for name, tensor in part.tensors.items():
                place = place_of_row(f"{module}.{name}", part.index)
                self.trained[place], self.masters[place] = part.views[name], tensor

    def __enter__(self) -> Scope:
        self._stack = ExitStack()
        for parameter in self.model.parameters():
            self._stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        for parameter in self.whole.values():
            parameter.requires_grad_(True)
        for part in self.slices:
            self._stack.enter_context(part)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self.clear_gradients()

    def gradients_to_masters(self) -> list[Tensor]:
        """Hand each tensor's gradient to its master; return the masters."""
        for name, parameter in self.whole.items():
            gradient, master = parameter.grad, self.masters[name]
            if gradient is not None and name in self.row_masks:
                gradient.mul_(self.row_masks[name])
            if gradient is not None and master is not parameter:
                master.grad = gradient.float()
        return list(self.masters.values())

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the masters, rounded, into the model."""
        for name, parameter in self.whole.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])
        for part in self.slices:
            part.write_back()

    def clear_gradients(self) -> None:
        """Forget all gradients."""
        for tensor in (*self.whole.values(), *self.masters.values()):
            tensor.grad = None

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the trained tensors."""
        return {place: tensor.detach().clone() for place, tensor in self.trained.items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a snapshot back into the model and the masters."""
        for place, value in snapshot.items():
            self.trained[place].copy_(value)
            self.masters[place].copy_(value)

    def changed(self, original: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what has changed since a snapshot, by place, see `changed_tensors`."""
        return changed_tensors(self.model, original)

    def trained_share(self) -> float:
        """Return the share of the model's parameters that are in training."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        rows = {name: mask.float().mean().item() for name, mask in self.row_masks.items()}
        return sum(t.numel() * rows.get(name, 1.0) for name, t in self.trained.items()) / total


def everything(
    model: nn.Module, only: str | None = None, layers: Sequence[int] | None = None
) -> Scope:
    """Return the scope of all parameters, or of a part of them, see `part_of`.

    Raises:
        InputError: If some are not on their device, or there is no such part.
    """
    if is_offloaded(model):
        raise InputError(
            "Scope 'everything' trains the whole model, and a part of this one is offloaded: use "
            "scope 'experts', or a device_map without cpu and disk."
        )
    whole, first = part_of(model, only, layers)
    return Scope(model, whole, first_layer=first)


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
    slices = [
        (names[_layer(layers, index).experts], ExpertSlice(layers[index].experts, expert))
        for index, expert in experts
    ]
    routers = _routers(layers, names, experts) if router != "none" else {}
    whole = {name: parameter for name, (parameter, _) in routers.items()}
    masks = {name: _row_mask(parameter, rows) for name, (parameter, rows) in routers.items()}
    lowest = min(index for index, _ in experts)
    return Scope(model, whole, slices, masks if router == "row" else None, lowest)


def changed_tensors(model: nn.Module, original: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of what no longer equals its original, bit by bit; of experts each its own."""
    rows = rows_of_experts(model)
    changed: dict[str, Tensor] = {}
    for place, before in original.items():
        now = storage(model, place)
        pairs = {place: (now, before)}
        if place in rows:
            pairs = {place_of_row(place, e): (now[e], before[e]) for e in range(rows[place])}
        changed |= {p: one.clone() for p, (one, two) in pairs.items() if not same_bits(one, two)}
    return changed


def _master(tensor: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(tensor.detach().float()) if tensor.dtype.itemsize < 4 else tensor


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
        if len(parameter) == layers[index].num_experts  # not a bias that steers the choice alone
    }


def _row_mask(parameter: Tensor, rows: list[int]) -> Tensor:
    mask = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1)).to(parameter)
    mask[rows] = 1
    return mask
