"""Low-rank adapters (LoRA) on all of a decoder: its linear layers and its fused experts.

Hu et al. 2021, https://arxiv.org/abs/2106.09685: a weight W becomes W + B A, of which only A and B
are trained. peft puts them in. Routers are left alone, as are embeddings and head. Four things
about peft that are no choice of ours:

1. It is given the decoder's layers, not the model: what it knows by the name of a model it takes
   for a checkpoint of transformers 4, and turns shared experts into fused ones.
2. Each pass makes W + B A of a layer's experts as a whole, and its gradient keeps it.
3. A model in bfloat16 gets its adapters of experts rounded in each pass; those of linear layers
   are multiplied in float32.
4. What a model reads past its layer, as Jamba does with `dt_proj`, has an adapter that gets no
   gradient: its B stays zero and it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, decoder, moe_layers
from seuf.moe.forward import is_offloaded, uncompiled
from seuf.moe.hub import first_line
from seuf.moe.names import row_path
from seuf.moe.sharding import whole

NAME = "default"


class Adapter(NamedTuple):
    """One adapter.

    Attributes:
        name: Of the adapted parameter in the plain model.
        weight: That parameter.
        layer: peft's layer around it.
    """

    name: str
    weight: nn.Parameter
    layer: Any


class Merged(NamedTuple):
    """A tensor that an adapter is merged into.

    Attributes:
        path: Of the tensor in the plain model, see `seuf.moe.names`.
        base: The model's own memory there.
        tensor: What it becomes, of the same type.
    """

    path: str
    base: Tensor
    tensor: Tensor


@contextmanager
def adapted(model: Any, rank: int, seed: int) -> Iterator[list[Adapter]]:
    """Give a model adapters inside the context; after it the model is what it was, to the bit.

    The model stays of its class and as it is called. With B zero, as at first, it computes what it
    did. Inside, all but the adapters is frozen, and a compiled model runs as it was written.

    Args:
        model: A causal language model of a known MoE architecture.
        rank: r; an adapter is B A, as peft has it with alpha = r.
        seed: Decides A; the global generators are left alone.

    Raises:
        InputError: If a part of the model is offloaded, or peft cannot adapt it.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes a second or two

    if is_offloaded(model):
        raise InputError(
            "LoRA trains all layers, and a part of this model is offloaded: use a device_map "
            "without cpu and disk, or for unlearning scope 'experts'."
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = decoder(model).layers
    with _restored_modules(model), uncompiled(model):
        linear, fused = _targets(model)
        try:
            config = LoraConfig(
                r=rank, lora_alpha=rank, target_modules=linear, target_parameters=fused
            )
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds GPUs too
                inject_adapter_in_model(config, layers, NAME)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise InputError(
                f"peft cannot put LoRA on this {model.config.model_type} model: {first_line(error)}"
            ) from error
        adapters = []
        for part in layers.modules():
            if hasattr(part, "lora_A"):
                own = getattr(part, "parameter_name", "weight")
                weight = part.get_base_layer().get_parameter(own)
                adapters.append(Adapter(names[id(weight)], weight, part))
        model.requires_grad_(False)
        for parameter in parameters_of(adapters).values():
            parameter.data = parameter.data.float()  # peft gives them the type of what they adapt
            parameter.requires_grad_(True)
        yield adapters


def parameters_of(adapters: list[Adapter]) -> dict[str, nn.Parameter]:
    """Return A and B of all adapters, in float32, by name."""
    return {
        f"{adapter.name}.{kind}": getattr(adapter.layer, kind)[NAME].weight
        for adapter in adapters
        for kind in ("lora_A", "lora_B")
    }


@torch.no_grad()
def merged(adapters: list[Adapter]) -> Iterator[Merged]:
    """Yield all tensors that adapters are merged into, one at a time; each expert apart.

    That is W + B A, rounded to W's type. The model is left as it is.
    """
    for adapter in adapters:
        change, weight = adapter.layer.get_delta_weight(NAME), whole(adapter.weight.detach())
        parts = [(adapter.name, weight, change)]
        if weight.dim() > 2:
            rows = enumerate(zip(weight, change, strict=True))
            parts = [(row_path(adapter.name, row), one, its) for row, (one, its) in rows]
        for path, base, its in parts:
            yield Merged(path, base, (base.float() + its.float()).to(base.dtype))


@torch.no_grad()
def merge(adapters: list[Adapter]) -> None:
    """Write what the adapters make of the model into it, for good."""
    for one in merged(adapters):
        one.base.copy_(one.tensor)


def targets_in(
    layer: nn.Module, moe: MoELayer | None
) -> tuple[dict[str, nn.Linear], dict[str, nn.Parameter]]:
    """Return the linear layers and the fused expert tensors of a decoder layer, by name in it.

    All of its matrices are adapted but the router's.
    """
    named = list(layer.named_modules())
    routers = set() if moe is None else set(moe.router.modules())
    linear = {name: m for name, m in named if isinstance(m, nn.Linear) and m not in routers}
    fused = {
        f"{name}.{own}": tensor
        for name, module in named
        if moe is not None and module is moe.experts
        for own, tensor in module.named_parameters(recurse=False)
        if tensor.dim() == 3
    }
    return linear, fused


def _targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the linear layers and the fused parameters to adapt, by name below the layers."""
    layers, moe = decoder(model).layers, {layer.index: layer for layer in moe_layers(model)}
    if any(hasattr(module, "lora_A") for module in layers.modules()):
        raise InputError("The model has LoRA adapters already: merge them into it first.")
    linear, fused = [], []
    for index, layer in enumerate(layers):
        modules, parameters = targets_in(layer, moe.get(index))
        linear += [f"{index}.{name}" for name in modules]
        fused += [f"{index}.{name}" for name in parameters]
    return linear, fused


@contextmanager
def _restored_modules(model: nn.Module) -> Iterator[None]:
    """Give a decoder's layers back their modules, parameters and flags after the context.

    Their order too: a pass through adapters takes parameters out and puts them in again, last.
    Values are left as they are.
    """
    layers = decoder(model).layers
    before = [(part, dict(part._modules), dict(part._parameters)) for part in layers.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for part, modules, parameters in before:
            for mapping, content in ((part._modules, modules), (part._parameters, parameters)):
                mapping.clear()
                mapping.update(content)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        vars(layers).pop("peft_config", None)
