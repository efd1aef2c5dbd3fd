"""What unlearning will need: passes, memory and disk, from settings and sizes alone.

Work is counted in tokens that pass all layers once without gradients, so that one measured rate
gives the time of everything.
"""

from __future__ import annotations

from typing import NamedTuple

from seuf.moe.footprint import BACKWARD, Footprint
from seuf.unlearning.quantities import needs
from seuf.unlearning.settings import Method, RoutingSettings, UnlearningSettings

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


def unlearning(
    model: Footprint,
    method: Method,
    settings: UnlearningSettings,
    layer: int,
    set_tokens: tuple[int, int],
    looked_at: int,
) -> Need:
    """Return what one method needs.

    Args:
        model: Sizes of the base model.
        method: Which scope and objective.
        settings: The budget.
        layer: Decoder layer of the expert under treatment.
        set_tokens: Tokens of the set to forget and of the one to keep.
        looked_at: Tokens that pass in one look: selection questions and routing probe.
    """
    if method.objective is None:
        return Need(0, model.weights)
    quantities = needs(method.objective)[0]
    first = layer if method.scope == "experts" else 0
    last = len(model.layers) - 1
    steered = layer if method.scope == "experts" else settings.objectives.rmu_layer
    to = steered if "forget_hidden" in quantities else last
    sets = 2 if any(name.startswith("retain") for name in quantities) else 1
    step = sets * settings.batch_size * settings.max_length
    used = _used(settings, set_tokens, sets)
    cached = settings.prefix_cache and first > 0
    below = 0 if cached else model.share(0, first - 1)
    a_step = below + (1 + BACKWARD) * model.share(first, to)
    a_step += 0 if "forget_hidden" in quantities else 2 * model.head_share()
    runs, looks = len(method.learning_rates), _looks(settings)
    trained = _trained(model, method, layer)
    return Need(
        tokens=runs * settings.steps * step * a_step
        + (used * model.share(0, first - 1) if cached else 0)
        + (used * model.share(first, to) if _referenced(quantities) else 0)
        + looked_at * (1 + (runs * looks) * model.share(first if cached else 0, last)),
        device=model.weights
        + ADAM * trained
        + model.training_bytes(step, first, to)
        + (0 if "forget_hidden" in quantities else model.loss_bytes(step)),
        memory=model.hidden_size
        * model.itemsize
        * ((used if cached else 0) + (used if "retain_reference_hidden" in quantities else 0)),
        disk=trained * model.itemsize,
    )


def evaluation(model: Footprint, tokens: int, batch: int) -> Need:
    """Return what answering questions of so many tokens needs, `batch` tokens at a time."""
    logits = 3 * 4 * batch * model.vocabulary  # the harness keeps logits and their softmax
    return Need(tokens * (1 + model.head_share()), model.weights + model.pass_bytes(batch) + logits)


def _trained(model: Footprint, method: Method, layer: int) -> int:
    return model.parameters if method.scope == "everything" else model.slice_parameters(layer)


def _used(settings: UnlearningSettings, set_tokens: tuple[int, int], sets: int) -> int:
    """Return the tokens of the samples that some step takes."""
    drawn = settings.steps * settings.batch_size * settings.max_length
    return sum(min(drawn, tokens) for tokens in set_tokens[:sets])


def _looks(settings: UnlearningSettings) -> int:
    return -(-settings.steps // settings.evaluate_every)


def _referenced(quantities: set[str]) -> bool:
    return bool(quantities & {"forget_reference_nll", "retain_reference_hidden"})
