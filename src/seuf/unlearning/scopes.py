"""A part of everything: some layers, and of these the experts, the routers, or both.

The paper's baselines train the experts and routers of all layers (Table 1), its RMU the experts of
layers 5 to 7.

WHAT may change: the tensors a method trains, and a promise about all the others.

The scope of LoRA: adapters on all linear layers and fused experts of the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, decoder, decoder_layer, moe_layers
from seuf.moe.experts import ExpertSlice
from seuf.moe.forward import is_offloaded
from seuf.moe.lora import Adapter, adapted, merged, parameters_of
from seuf.moe.names import row_path, rows_of_experts, same_bits, tensor_at

ROUTERS = ("routers", "experts_and_routers")
EXPERTS = ("experts", "experts_and_routers")


def part_of(
    model: nn.Module, only: str | None, layers: Sequence[int] | None
) -> tuple[dict[str, nn.Parameter], int]:
    """Return a part of a model's parameters, by name, and the first decoder layer among them.

    Args:
        model: A causal language model of a known MoE architecture.
        only: `experts`, `routers`, `experts_and_routers`, or None for all.
        layers: Indices of decoder layers, or None for all.

    Raises:
        InputError: If there is no such layer, or none of them has experts.
    """
    if only is None and layers is None:
        return dict(model.named_parameters()), 0
    chosen = list(range(len(decoder(model).layers))) if layers is None else list(layers)
    modules = _layers(model, chosen) if only is None else _pieces(model, only, chosen)
    wanted = {id(parameter) for module in modules for parameter in module.parameters()}
    if not wanted:
        raise InputError(f"Layers {chosen} have no experts: MoE layers are {_moe(model)}.")
    found = {name: p for name, p in model.named_parameters() if id(p) in wanted}
    first = min(chosen) if only is None else min(set(chosen).intersection(_moe(model)))
    return found, first


def _layers(model: nn.Module, layers: Sequence[int]) -> list[nn.Module]:
    return [decoder_layer(model, index) for index in layers]


def _pieces(model: nn.Module, only: str, layers: Sequence[int]) -> Iterator[nn.Module]:
    _layers(model, layers)  # refuses those that are not there
    for layer in moe_layers(model):
        if layer.index in layers and only in ROUTERS:
            yield layer.router
        if layer.index in layers and only in EXPERTS:
            yield layer.experts


def _moe(model: nn.Module) -> list[int]:
    return [layer.index for layer in moe_layers(model)]


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
                place = row_path(f"{module}.{name}", part.index)
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
        now = tensor_at(model, place)
        pairs = {place: (now, before)}
        if place in rows:
            pairs = {row_path(place, e): (now[e], before[e]) for e in range(rows[place])}
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


class LoraScope(Scope):
    """The adapters in training, and what the model would be with them merged.

    In training and at every look the adapters stand beside the weights; what has changed, and is
    stored, is the weights with them merged: in a bfloat16 model rounded once more, so that small
    changes of a weight are lost there.

    Args:
        model: The model, adapted.
        adapters: Its adapters.
    """

    def __init__(self, model: nn.Module, adapters: list[Adapter]) -> None:
        super().__init__(model, parameters_of(adapters))
        self.adapters = adapters

    def changed(self, original: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the adapters change when merged, by place, in CPU memory."""
        parts = merged(self.adapters)
        return {one.place: one.tensor.cpu() for one in parts if not same_bits(one.tensor, one.base)}

    def trained_share(self) -> float:
        """Return how many parameters the adapters have, as a share of the model's own."""
        own = sum(tensor.numel() for tensor in self.trained.values())
        return own / (sum(parameter.numel() for parameter in self.model.parameters()) - own)


@contextmanager
def lora(model: nn.Module, rank: int, seed: int) -> Iterator[LoraScope]:
    """Give the scope of LoRA inside the context; after it the model has no adapters.

    Raises:
        InputError: If a part of the model is offloaded, or peft cannot adapt it.
    """
    with adapted(model, rank, seed) as adapters:
        yield LoraScope(model, adapters)
