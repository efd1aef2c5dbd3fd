"""What unlearning will need: passes, memory and disk, from settings and sizes alone.

Work is counted in tokens that pass all layers once without gradients, so that one measured rate
gives the time of everything; beside it stand the seconds that a pass takes however few its tokens
are. docs/studies.md holds both against runs.
"""

from __future__ import annotations

from seuf.moe.footprint import Footprint
from seuf.unlearning.needs import Asked, Experts, Need, changed_bytes, waiting
from seuf.unlearning.planned_run import PlannedRun
from seuf.unlearning.selection import most_to_reach
from seuf.unlearning.settings import (
    ESFT,
    Method,
    RoutingSettings,
    SelectionSettings,
    UnlearningSettings,
)


def capture(model: Footprint, settings: RoutingSettings, tokens: int) -> Need:
    """Return what capturing the routing of a set of tokens needs."""
    taken = min(tokens, settings.max_tokens or tokens)
    batch = min(settings.batch_size * settings.max_length, taken)
    wait = waiting(model, taken / batch if batch else 0)
    return Need(taken, model.weights + model.pass_bytes(batch), waiting=wait)


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
    experts: Experts,
    set_tokens: tuple[int, int],
    look: Asked,
) -> Need:
    """Return what one method needs; with ESFT's experts, see `treated`, the most.

    The work of experts in training, which is done a second time, is not in `tokens`.

    Args:
        model: Sizes of the base model.
        method: Which scope and objective.
        settings: The budget.
        experts: How many are under treatment, by decoder layer.
        set_tokens: Tokens of the set to forget and of the one to keep.
        look: What passes in one look: selection questions and routing probe.
    """
    if method.objective is None:
        return Need(0, model.weights)
    run = PlannedRun(model, method, settings, experts, set_tokens, look)
    return Need(
        run.tokens,
        run.device,
        run.memory,
        changed_bytes(model, method, experts),
        waiting(model, run.passes, adapted=method.scope == "lora"),
    )


def evaluation(
    model: Footprint, method: Method, experts: Experts, asked: Asked, batch: int
) -> Need:
    """Return what answering questions with a method's delta needs.

    Args:
        model: Sizes of the base model.
        method: Its changed tensors stand beside those of the base.
        experts: See `unlearning`.
        asked: What passes.
        batch: Tokens in a pass at most.
    """
    tokens, passes = asked
    logits = 3 * 4 * batch * model.vocabulary  # the harness keeps logits and their softmax
    return Need(
        tokens * (1 + model.head_share()),
        model.weights + changed_bytes(model, method, experts) + model.pass_bytes(batch) + logits,
        waiting=waiting(model, passes),
    )
