"""Algorithm 1 of Zhuang et al. 2025 (https://arxiv.org/abs/2411.18797): start reading here.

    1. take a random part of the forget set          attribution.calibration_samples
    2. record the gate affinity of every expert      moe.routing.capture_routing (Eq. 2)
    3. rank, select the top M                        selection.select_experts
    4. activate those experts and their routers      scopes.selected_experts
    5. unlearn, with the router anchored             unlearn, below (Eq. 4)

Steps 1 to 3 happen once a study. `unlearn` is steps 4 and 5 for one method; baselines go through
it too and differ only in their scope. Where we depart from the paper:

1. The anchor is on the full softmax by default; with g of Eq. 3 it hardly moves the router.
2. The checkpoint is chosen by balance on the selection questions, not by hand.
3. Every learning rate of the method is tried with the same budget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from torch import nn

from seuf.moe.activations import SharedPrefix
from seuf.moe.architectures import check_positions
from seuf.moe.batches import pack, tokenize
from seuf.moe.deltas import Delta
from seuf.moe.digests import check_unchanged, checkpoint_dtypes, model_digest
from seuf.moe.forward import keep_on_device
from seuf.moe.loading import LanguageModel
from seuf.moe.stability import RoutingProbe, first_tokens
from seuf.moe.threads import threads
from seuf.unlearning.draws import Samples
from seuf.unlearning.judgement import Judgement
from seuf.unlearning.loop import Best, train, updates_of
from seuf.unlearning.resumption import Progress, Resumption, key_of
from seuf.unlearning.scopes import Scope, everything, lora, selected_experts
from seuf.unlearning.settings import UnlearningSettings
from seuf.unlearning.treatment import Treatment, budget_of, loss_of, quantities_of, uses_head

JudgeModel = Callable[[nn.Module], Judgement]
LOG_COLUMNS = [
    "learning_rate",
    "step",
    "loss",
    "anchor",
    "gradient_norm",
    "forget_efficacy",
    "utility",
    "chance",
    "balance",
    "overlap_forget",
    "overlap_retain",
    "stopped",
]


@dataclass(frozen=True)
class Unlearned:
    """What a method made of the model.

    Attributes:
        delta: The changed tensors.
        log: One entry for each look at the selection questions, with the keys `LOG_COLUMNS`.
        trained_share: Share of the model's parameters that were in training.
    """

    delta: Delta
    log: list[dict[str, object]]
    trained_share: float


def unlearn(
    base: LanguageModel,
    treatment: Treatment,
    judge: JudgeModel,
    progress: Progress | None = None,
) -> Unlearned:
    """Return what a treatment changes in the base model, which is left as it was.

    Args:
        base: The original model.
        treatment: What is done.
        judge: Scores a model on the selection questions.
        progress: Keeps what the run has come to, should it be killed, if the settings want that.
    """
    digest = model_digest(base.model)
    if treatment.method.scope == "nothing":
        return Unlearned(Delta({}, digest, checkpoint_dtypes(base.model)), [], 0.0)
    layers = {layer for layer, _ in treatment.experts}
    with (
        threads(treatment.settings.threads),
        keep_on_device(base.model, layers, head=uses_head(treatment)),
        _left_as_it_was(base.model, digest),
        _scope(base.model, treatment) as scope,
    ):
        share, original = scope.trained_share(), scope.snapshot()
        try:
            resumption = _resumption(progress, base, digest, treatment)
            best = _best(base, scope, treatment, judge, resumption)
            scope.restore(best.tensors)
            changed = scope.changed(original)
        finally:
            scope.restore(original)
    return Unlearned(Delta.of(base.model, changed, digest), best.log, share)


def _best(
    base: LanguageModel,
    scope: Scope,
    treatment: Treatment,
    judge: JudgeModel,
    resumption_of: Callable[[Scope, Best], Resumption],
) -> Best:
    """Return the best checkpoint over all learning rates."""
    shared = SharedPrefix(base.model, _shared_below(scope, treatment.settings))
    probe = _probe(base, scope, treatment)

    def look() -> tuple[Judgement, dict[str, float]]:
        with shared:
            return judge(base.model), probe.overlap(base.model)

    original, best = scope.snapshot(), Best(scope.snapshot(), look()[0].balance)
    run, resumption = quantities_of(base, scope, treatment), resumption_of(scope, best)
    with scope:
        for learning_rate in resumption.ahead(treatment.method.learning_rates):
            budget = budget_of(treatment.settings, learning_rate)
            with updates_of(scope, partial(loss_of, run, treatment), budget) as update:
                train(update, look, budget, best, run.feed, resumption)
            scope.restore(original)
    return best


def samples_of(
    base: LanguageModel, forget: list[str], retain: list[str], settings: UnlearningSettings
) -> Samples:
    """Return the token ids of both sets, packed into full samples where the settings say so."""
    return Samples(*(_tokens(base, texts, settings) for texts in (forget, retain)))


def _tokens(base: LanguageModel, texts: list[str], settings: UnlearningSettings) -> list[list[int]]:
    samples = tokenize(base.tokenizer, texts, settings.max_length)
    if settings.pack:
        random.Random(0).shuffle(samples)  # neighbours in a file tell of the same thing
        samples = pack(samples, settings.max_length, base.tokenizer.eos_token_id)
    check_positions(base.model, samples, "set unlearning.max_length to {} or less")
    return [ids for ids in samples if len(ids) > 1]  # a single token predicts nothing


@contextmanager
def _scope(model: nn.Module, treatment: Treatment) -> Iterator[Scope]:
    """Give the method's scope inside the context; what it put into the model is then gone."""
    method = treatment.method
    if method.scope == "lora":
        with lora(model, method.rank, treatment.seed) as scope:
            yield scope
    elif method.scope == "everything":
        yield everything(model, method.only, method.layers)
    else:
        yield selected_experts(model, treatment.experts, method.router)


@contextmanager
def _left_as_it_was(model: nn.Module, digest: str) -> Iterator[None]:
    try:
        yield
    finally:
        check_unchanged(model, digest)


def _resumption(
    progress: Progress | None, base: LanguageModel, digest: str, treatment: Treatment
) -> Callable[[Scope, Best], Resumption]:
    if progress is None or not treatment.settings.resumable:
        return partial(Resumption, None, "")
    return partial(Resumption, progress, key_of(base, digest, treatment))


def _shared_below(scope: Scope, settings: UnlearningSettings) -> int:
    return scope.first_layer if settings.prefix_cache else 0


def _probe(base: LanguageModel, scope: Scope, treatment: Treatment) -> RoutingProbe:
    samples, tokens = treatment.samples, treatment.settings.probe_tokens
    forget, retain = (first_tokens(s, tokens) for s in (samples.forget, samples.retain))
    return RoutingProbe(base.model, forget, retain, base.padding, scope.first_layer)
