"""`kedro plan`: estimate the memory that each method of a study needs, before anything runs.

The estimate needs a model's configuration, not its weights. It counts what a method trains, AdamW's
state and the snapshots of that, and the activations of a training step. A model spread over devices
by a `device_map` needs the same in total.
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

SNAPSHOTS = 2  # of the trained tensors: the original's, and the best checkpoint's
FLOAT32 = 4  # bytes
ANSWER_SECONDS = 10.0  # for the hub to say whether a model exists


Existing = TypeVar("Existing", bound=ExistingModelSettings)


class Trained(NamedTuple):
    """How many parameters a method trains, by kind; a router trained by rows counts whole.

    Attributes:
        whole: In tensors trained as a whole, in the model's dtype.
        slices: In experts, trained as float32 slices with gradients of their own.
        adapters: In LoRA's adapters, float32 tensors beside the model.
        first_layer: First decoder layer that changes.
    """

    whole: int = 0
    slices: int = 0
    adapters: int = 0
    first_layer: int = 0


class Memory(NamedTuple):
    """What one method needs: the number of trained parameters, then bytes.

    `device` is what a training step needs at once: the sum of the four fields before it.
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
        parameters: The study's parameters.
        layer: Decoder layer assumed for the experts of a selection rule; by default the first MoE
            layer, where a step keeps the most activations.

    Raises:
        InputError: If the model cannot be found, or has no such MoE layer.
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
    """Return one row per method, by column name."""
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
    """Return what one method needs to train these experts of a model, which may be empty."""
    whole, slices, adapters, first = trained_parameters(model, method, experts)
    itemsize, trained = model.dtype.itemsize, whole + slices + adapters
    # AdamW's two moments and the gradient
    optimizer = 3 * FLOAT32 * trained if method.objective else 0
    optimizer += FLOAT32 * adapters  # the adapters themselves, beside the model's weights
    if itemsize < FLOAT32 and method.objective:  # float32 master copies
        optimizer += FLOAT32 * (whole + slices)
        if samples_at_once(method, settings) < (method.batch_size or settings.batch_size):
            optimizer += itemsize * whole  # a micro-batch's gradient beside the accumulated one
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
    """Return how many parameters a method trains in a model, which may be empty."""
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
    """Return the (layer, expert) pairs that a method's selection is assumed to choose.

    A ranking's experts lie in one layer, also if trials choose the layer or a random control draws
    from it. ESFT takes at most as many as reach its share of evenly spread tokens, or, counted by
    gate, all.
    """
    if method.selection is None:
        return []
    layers = {one.index: one.num_experts for one in moe_layers(model)}
    selection = method.selection.removeprefix(RANDOM_IN)
    if selection == ESFT:
        counts = {i: most_to_reach(number, settings) for i, number in layers.items()}
        return [(index, expert) for index, count in counts.items() for expert in range(count)]
    fixed = settings.fixed.get(selection)
    chosen = fixed.layer if fixed else min(layers) if layer is None else layer
    if chosen not in layers:
        raise InputError(f"Layer {chosen} is not a MoE layer; MoE layers are {sorted(layers)}.")
    experts = [fixed.expert] if fixed else range(min(settings.top, layers[chosen]))
    return [(chosen, expert) for expert in experts]


def _activations(
    model: Any, method: Method, settings: UnlearningSettings, experts: Experts, first: int
) -> int:
    """Return the bytes of a step's activations and of its loss."""
    inputs, _ = arguments_of(str(method.objective))
    further_sets = {name.split("_")[0] for name in inputs} & {"retain", "refusal"}
    samples = (1 + len(further_sets)) * samples_at_once(method, settings)
    tokens = samples * settings.max_length
    last, size = len(decoder(model).layers) - 1, 0
    if is_steered(str(method.objective)):  # the layers above the steered one do not run
        last = max((index for index, _ in experts), default=settings.objectives.rmu_layer)
    else:
        size += footprint.loss_bytes(model, tokens)
    size += footprint.activation_bytes(model, tokens, first, last)
    if method.scope == "lora":
        size += footprint.adapter_activation_bytes(model, tokens, last)
    layers = {layer.index: layer for layer in moe_layers(model)}
    return size + sum(
        footprint.slice_activation_bytes(model, tokens, layers[index]) for index, _ in experts
    )


def cached_or_reachable(settings: Existing) -> Existing:
    """Return the settings with the model's cached folder as its path, or check that the hub has it.

    The hub's client itself would retry five times, for half a minute and with twelve lines of log.

    Raises:
        InputError: If the model is not in the cache, and the hub does not answer or lacks it.
    """
    reference = HubReference(settings.path, settings.revision)
    if is_folder(reference):
        return settings
    from huggingface_hub import HfApi, try_to_load_from_cache

    with clear_errors(reference):
        cached = try_to_load_from_cache(settings.path, "config.json", revision=settings.revision)
        if isinstance(cached, str):
            needs_more_files = getattr(settings, "gguf_file", None) or getattr(
                settings, "trust_remote_code", False
            )
            folder = {"path": str(Path(cached).parent), "revision": None}
            return settings if needs_more_files else settings.model_copy(update=folder)
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
