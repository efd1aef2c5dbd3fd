"""`kedro plan`: the memory that each method of a study needs, before anything runs.

Counted on a model without weights, from the configuration alone: what a method trains, what AdamW
and the snapshots keep of that, and what a training step keeps of its tokens. A model spread over
devices by a `device_map` needs as much in all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import nn

from seuf.inputs import InputError
from seuf.moe import footprint
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.hub import HubReference, clear_errors, is_folder
from seuf.moe.loading import empty_model
from seuf.moe.settings import (
    ExistingModelSettings,
    ExternalModelSettings,
    FinetuningSettings,
    UpcyclingSettings,
)
from seuf.parameters import BaseModelSettings, StudyParameters
from seuf.unlearning.objectives import arguments_of, is_steered
from seuf.unlearning.rankings import RANDOM_IN
from seuf.unlearning.scopes import part_of
from seuf.unlearning.selection import ESFT, SelectionSettings, most_to_reach
from seuf.unlearning.settings import Experts, Method, UnlearningSettings, samples_at_once

SNAPSHOTS = 2  # of what is trained: the original's, and the best checkpoint's
FLOAT32 = 4
ANSWER_SECONDS = 10.0  # that the hub has to say that a model is there


Existing = TypeVar("Existing", bound=ExistingModelSettings)


class Trained(NamedTuple):
    """How many parameters a method trains, and where; all of a router that is trained by rows.

    Attributes:
        whole: In tensors that are trained as a whole, in the model's type.
        slices: In experts, whose gradients go to float32 tensors of their own.
        adapters: In LoRA's adapters, float32 tensors beside the model.
        first_layer: First decoder layer that changes.
    """

    whole: int = 0
    slices: int = 0
    adapters: int = 0
    first_layer: int = 0


class Memory(NamedTuple):
    """What one method needs: parameters in training, then bytes.

    `device` is all that is there at once in a training step, the first four together.
    """

    trained: int
    weights: int
    optimizer: int
    snapshots: int
    activations: int
    device: int
    delta: int


def study_memory(parameters: StudyParameters, layer: int | None = None) -> dict[str, Memory]:
    """Return what each method of a study needs, by name.

    Args:
        parameters: Of the study.
        layer: Decoder layer that a rule's experts are assumed to be in; by default the first MoE
            layer, where a step keeps most.

    Raises:
        InputError: If there is no such model, or no such layer in it.
    """
    model = _empty_model(parameters.base_model)
    return {
        name: method_memory(
            model,
            method,
            parameters.unlearning,
            assumed_experts(model, method, parameters.expert_selection, layer),
        )
        for name, method in parameters.methods.items()
    }


def table(needs: dict[str, Memory]) -> list[dict[str, str]]:
    """Return a row a method, with what each number is called."""
    return [
        {
            "method": name,
            "trained": f"{need.trained:,}",
            "weights": _readable(need.weights),
            "optimizer": _readable(need.optimizer),
            "snapshots": _readable(need.snapshots),
            "activations": _readable(need.activations),
            "device in all": _readable(need.device),
            "delta on disk": _readable(need.delta),
        }
        for name, need in needs.items()
    ]


def method_memory(
    model: Any, method: Method, settings: UnlearningSettings, experts: Experts
) -> Memory:
    """Return what one method needs on a model, which may be empty; `experts` as it was given."""
    whole, slices, adapters, first = trained_parameters(model, method, experts)
    itemsize, trained = model.dtype.itemsize, whole + slices + adapters
    # AdamW's two moments and the gradient
    optimizer = 3 * FLOAT32 * trained if method.objective else 0
    optimizer += FLOAT32 * adapters  # which are beside the model's weights themselves
    if itemsize < FLOAT32 and method.objective:  # masters
        optimizer += FLOAT32 * (whole + slices)
        if samples_at_once(method, settings) < (method.batch_size or settings.batch_size):
            optimizer += itemsize * whole  # a micro-batch's gradient beside the sum of those before
    weights, activations = footprint.weight_bytes(model), 0
    snapshots = SNAPSHOTS * (itemsize * (whole + slices) + FLOAT32 * adapters)
    if method.objective is not None:
        activations = _activations(model, method, settings, experts, first)
    return Memory(
        trained=trained,
        weights=weights,
        optimizer=optimizer,
        snapshots=snapshots,
        activations=activations,
        device=weights + optimizer + snapshots + activations,
        delta=footprint.adapted_bytes(model) if adapters else itemsize * trained,
    )


def trained_parameters(model: Any, method: Method, experts: Experts) -> Trained:
    """Return how many parameters a method trains of a model, which may be empty."""
    if method.scope == "nothing":
        return Trained()
    if method.scope == "lora":
        return Trained(adapters=footprint.adapter_parameters(model, method.rank))
    if method.scope == "everything":
        whole, first = part_of(model, method.only, method.layers)
        return Trained(sum(parameter.numel() for parameter in whole.values()), first_layer=first)
    layers = {layer.index: layer for layer in moe_layers(model)}
    if method.scope == "deletion":
        return Trained(
            slices=sum(footprint.output_parameters(layers[index]) for index, _ in experts),
            first_layer=min(index for index, _ in experts),
        )
    routers = {index for index, _ in experts} if method.router != "none" else set()
    return Trained(
        whole=sum(footprint.router_parameters(layers[index]) for index in routers),
        slices=sum(footprint.expert_parameters(layers[index]) for index, _ in experts),
        first_layer=min(index for index, _ in experts),
    )


def assumed_experts(
    model: nn.Module, method: Method, settings: SelectionSettings, layer: int | None
) -> Experts:
    """Return the experts that a method's selection is assumed to choose, (layer, expert) pairs.

    A ranking's lie in one layer, also where trials choose it or a random control draws in it; of
    ESFT these are the most that it can take: by token those of
    tokens that are spread evenly, by gate all.
    """
    if method.selection is None:
        return []
    layers = {one.index: one.num_experts for one in moe_layers(model)}
    selection = method.selection.removeprefix(RANDOM_IN)
    if selection == ESFT:
        most = {i: most_to_reach(number, settings) for i, number in layers.items()}
        return [(index, expert) for index, count in most.items() for expert in range(count)]
    fixed = settings.fixed.get(selection)
    chosen = fixed.layer if fixed else min(layers) if layer is None else layer
    if chosen not in layers:
        raise InputError(f"Layer {chosen} is not a MoE layer; MoE layers are {sorted(layers)}.")
    experts = [fixed.expert] if fixed else range(min(settings.top, layers[chosen]))
    return [(chosen, expert) for expert in experts]


def _activations(
    model: Any, method: Method, settings: UnlearningSettings, experts: Experts, first: int
) -> int:
    """Return what a step keeps of its tokens, and what the loss makes of them."""
    inputs, _ = arguments_of(str(method.objective))
    kinds = {name.split("_")[0] for name in inputs} & {"retain", "refusal"}
    sets = 1 + len(kinds)
    tokens = sets * samples_at_once(method, settings) * settings.max_length
    last, kept = len(decoder(model).layers) - 1, 0
    if is_steered(str(method.objective)):  # nothing above the steered layer runs
        last = max((index for index, _ in experts), default=settings.objectives.rmu_layer)
    else:
        kept += footprint.loss_bytes(model, tokens)
    kept += footprint.activation_bytes(model, tokens, first, last)
    if method.scope == "lora":
        kept += footprint.adapter_activation_bytes(model, tokens, last)
    layers = {layer.index: layer for layer in moe_layers(model)}
    return kept + sum(
        footprint.slice_activation_bytes(model, tokens, layers[index]) for index, _ in experts
    )


def cached_or_reachable(settings: Existing) -> Existing:
    """Return the settings of a model whose configuration can be had, in the cache if it is there.

    The hub's client would try five times to list a model's files, half a minute and twelve lines.

    Raises:
        InputError: If it is on the hub, not in the cache, and the hub does not answer.
    """
    reference = HubReference(settings.path, settings.revision)
    if is_folder(reference):
        return settings
    from huggingface_hub import HfApi, try_to_load_from_cache

    with clear_errors(reference):
        cached = try_to_load_from_cache(settings.path, "config.json", revision=settings.revision)
        if isinstance(cached, str):
            more = getattr(settings, "gguf_file", None) or getattr(
                settings, "trust_remote_code", False
            )
            folder = {"path": str(Path(cached).parent), "revision": None}
            return settings if more else settings.model_copy(update=folder)
        HfApi().model_info(settings.path, revision=settings.revision, timeout=ANSWER_SECONDS)
    return settings


def _empty_model(settings: BaseModelSettings) -> Any:
    if isinstance(settings, ExternalModelSettings):
        return empty_model(cached_or_reachable(settings))
    if isinstance(settings, FinetuningSettings):
        return empty_model(cached_or_reachable(settings.taught))
    import torch

    from seuf.moe.training import new_model

    if isinstance(settings, UpcyclingSettings):
        from seuf.moe.upcycling import empty_mixture

        return empty_mixture(cached_or_reachable(settings))
    with torch.device("meta"):
        return new_model(settings, settings.vocabulary)


def _readable(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
