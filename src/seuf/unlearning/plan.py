"""What unlearning will need: passes, memory and disk, from settings and sizes alone.

Work is counted in tokens that pass all layers once without gradients, so that one measured rate
gives the time of everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from seuf.moe.footprint import BACKWARD, Footprint, LayerSize
from seuf.unlearning.esft import most_to_reach
from seuf.unlearning.quantities import needs
from seuf.unlearning.settings import (
    ESFT,
    Method,
    RoutingSettings,
    SelectionSettings,
    UnlearningSettings,
)

ADAM = 4 * 4  # bytes a trained parameter: float32 master, gradient and two moments


class Need(NamedTuple):
    """What a stage needs.

    Attributes:
        tokens: That pass the whole model, or as many as cost the same.
        device: Bytes where the model runs, its weights included.
        memory: Bytes of CPU memory beside the model.
        disk: Bytes written.
    """

    tokens: float
    device: int
    memory: int = 0
    disk: int = 0


def capture(model: Footprint, settings: RoutingSettings, tokens: int) -> Need:
    """Return what capturing the routing of a set of tokens needs."""
    taken = min(tokens, settings.max_tokens or tokens)
    batch = settings.batch_size * settings.max_length
    return Need(taken, model.weights + model.pass_bytes(min(batch, taken)))


def treated(
    model: Footprint, method: Method, settings: SelectionSettings, layer: int
) -> dict[int, int]:
    """Return how many experts of which layers a method treats: one, or of ESFT the most it can.

    How many ESFT takes is not known before routing: fewer, the less evenly tokens are spread.

    Args:
        model: Sizes of the base model.
        method: Which selection.
        settings: ESFT's threshold.
        layer: Decoder layer in which any other rule is assumed to choose.
    """
    if method.selection != ESFT:
        return {layer: 1}
    return {
        index: most_to_reach(size.experts, settings.esft_threshold)
        for index, size in enumerate(model.layers)
        if size.expert
    }


def unlearning(
    model: Footprint,
    method: Method,
    settings: UnlearningSettings,
    experts: Mapping[int, int],
    set_tokens: tuple[int, int],
    looked_at: int,
) -> Need:
    """Return what one method needs; with ESFT's experts, see `treated`, the most.

    The work of experts in training, which is done a second time, is not in `tokens`.

    Args:
        model: Sizes of the base model.
        method: Which scope and objective.
        settings: The budget.
        experts: How many are under treatment, by decoder layer.
        set_tokens: Tokens of the set to forget and of the one to keep.
        looked_at: Tokens that pass in one look: selection questions and routing probe.
    """
    if method.objective is None:
        return Need(0, model.weights)
    quantities = needs(method.objective)[0]
    first, last = _first(model, method, experts), len(model.layers) - 1
    steered = max(experts) if method.scope == "experts" else settings.objectives.rmu_layer
    to = steered if "forget_hidden" in quantities else last
    sets = 2 if any(name.startswith("retain") for name in quantities) else 1
    batch = (method.batch_size or settings.batch_size) * settings.max_length
    step, used = sets * batch, _used(settings.steps * batch, set_tokens, sets)
    cached = settings.prefix_cache and first > 0
    below = 0 if cached else model.share(0, first - 1)
    a_step = below + (1 + BACKWARD) * model.share(first, to)
    a_step += 0 if "forget_hidden" in quantities else 2 * model.head_share()
    runs, looks = len(method.learning_rates), _looks(settings)
    trained = _trained(model, method, experts)
    return Need(
        tokens=runs * settings.steps * step * a_step
        + (used * model.share(0, first - 1) if cached else 0)
        + (used * model.share(first, to) if _referenced(quantities) else 0)
        + looked_at * (1 + (runs * looks) * model.share(first if cached else 0, last)),
        device=model.weights
        + ADAM * trained
        + model.training_bytes(step, first, to)
        + _slices(model, method, step, experts)
        + (model.adapter_bytes(step, to) if method.scope == "lora" else 0)
        + (0 if "forget_hidden" in quantities else model.loss_bytes(step)),
        memory=model.hidden_size
        * model.itemsize
        * ((used if cached else 0) + (used if "retain_reference_hidden" in quantities else 0)),
        disk=model.merged_bytes() if method.scope == "lora" else trained * model.itemsize,
    )


def evaluation(model: Footprint, tokens: int, batch: int) -> Need:
    """Return what answering questions of so many tokens needs, `batch` tokens at a time."""
    logits = 3 * 4 * batch * model.vocabulary  # the harness keeps logits and their softmax
    return Need(tokens * (1 + model.head_share()), model.weights + model.pass_bytes(batch) + logits)


def _first(model: Footprint, method: Method, experts: Mapping[int, int]) -> int:
    """Return the first decoder layer that is trained."""
    if method.scope == "experts":
        return min(experts)
    if method.only:
        return min(index for index, _ in _with_experts(model, method))
    return min(method.layers) if method.layers else 0


def _with_experts(model: Footprint, method: Method) -> list[tuple[int, LayerSize]]:
    """Return the MoE layers that are trained as a whole, or in part."""
    chosen = range(len(model.layers)) if method.layers is None else method.layers
    return [(index, model.layers[index]) for index in chosen if model.layers[index].expert]


def _trained(model: Footprint, method: Method, experts: Mapping[int, int]) -> int:
    if method.scope == "everything":
        return _of_everything(model, method)
    if method.scope == "lora":
        return model.adapters(method.rank)
    router = method.router != "none"
    return sum(model.slice_parameters(layer, count, router) for layer, count in experts.items())


def _of_everything(model: Footprint, method: Method) -> int:
    if method.only is None and method.layers is None:
        return model.parameters
    if method.only is None:
        return sum(model.layers[index].parameters for index in method.layers or ())
    sizes = [size for _, size in _with_experts(model, method)]
    routers = sum(size.router for size in sizes) if "routers" in method.only else 0
    all_experts = sum(size.experts * size.expert for size in sizes)
    return routers + (all_experts if "experts" in method.only else 0)


def _slices(model: Footprint, method: Method, step: int, experts: Mapping[int, int]) -> int:
    """Return the bytes that experts in training keep of a step's tokens."""
    if method.scope != "experts":
        return 0
    return sum(model.slice_bytes(step, layer, count) for layer, count in experts.items())


def _used(drawn: int, set_tokens: tuple[int, int], sets: int) -> int:
    """Return the tokens of the samples that some step takes."""
    return sum(min(drawn, tokens) for tokens in set_tokens[:sets])


def _looks(settings: UnlearningSettings) -> int:
    return -(-settings.steps // settings.evaluate_every)


def _referenced(quantities: set[str]) -> bool:
    return bool(quantities & {"forget_reference_nll", "retain_reference_hidden"})
