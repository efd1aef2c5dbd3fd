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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from seuf.moe.batches import pack, tokenize
from seuf.moe.deltas import Delta, model_digest
from seuf.moe.models import LanguageModel
from seuf.moe.stability import RoutingProbe, first_tokens
from seuf.unlearning.anchor import anchor_for
from seuf.unlearning.judgement import Judgement
from seuf.unlearning.loop import Best, Budget, train
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.quantities import Quantities, Samples, draws, needs, steering_vector
from seuf.unlearning.scopes import Experts, Scope, changed_tensors, everything, selected_experts
from seuf.unlearning.settings import Method, UnlearningSettings

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
    samples: Samples,
    experts: Experts,
    method: Method,
    settings: UnlearningSettings,
    judge: JudgeModel,
    seed: int,
) -> Unlearned:
    """Return what `method` changes in the base model, which is left as it was.

    Args:
        base: The original model.
        samples: Token ids of the two sets, see `samples_of`.
        experts: The experts under treatment, (layer, expert); not used by other scopes.
        method: Scope, objective, anchor, learning rates.
        settings: The budget.
        judge: Scores a model on the selection questions.
        seed: Decides the order of the samples and RMU's direction.
    """
    digest = model_digest(base.model)
    if method.scope == "nothing":
        return Unlearned(Delta({}, digest), [], 0.0)
    torch.set_num_threads(settings.threads)
    scope = _scope(base.model, experts, method)
    original = scope.snapshot()
    probe = _probe(base, samples, settings.probe_tokens)
    before = judge(base.model)
    best = Best(original, before.balance)
    run = _quantities(base, samples, experts, method, settings, seed)
    try:
        with scope:
            for learning_rate in method.learning_rates:
                train(
                    scope,
                    partial(_loss, run, method, settings),
                    lambda: (judge(base.model), probe.overlap(base.model)),
                    _budget(settings, learning_rate),
                    best,
                )
                scope.restore(original)
        scope.restore(best.tensors)
        changed = changed_tensors(base.model, original)
    finally:
        scope.restore(original)
    return Unlearned(Delta(changed, digest), best.log, scope.trained_share())


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
    return [ids for ids in samples if len(ids) > 1]  # a single token predicts nothing


def _scope(model: nn.Module, experts: Experts, method: Method) -> Scope:
    if method.scope == "everything":
        return everything(model)
    return selected_experts(model, experts, method.router)


def _probe(base: LanguageModel, samples: Samples, tokens: int) -> RoutingProbe:
    forget, retain = (first_tokens(s, tokens) for s in (samples.forget, samples.retain))
    return RoutingProbe(base.model, forget, retain, base.padding)


def _quantities(
    base: LanguageModel,
    samples: Samples,
    experts: Experts,
    method: Method,
    settings: UnlearningSettings,
    seed: int,
) -> Quantities:
    anchored = experts if method.scope == "experts" and method.anchor_weight else []
    coefficient = method.steering_coefficient or settings.objectives.rmu_steering_coefficient
    return Quantities(
        base,
        samples,
        draws(samples, settings.steps, settings.batch_size, seed),
        layer=_steered_layer(experts, method, settings),
        steering=steering_vector(base.model.config.hidden_size, coefficient, seed),
        anchor=anchor_for(base.model, anchored, method.anchor_on),
        needed=needs(_objective(method))[0],
    )


def _steered_layer(experts: Experts, method: Method, settings: UnlearningSettings) -> int:
    if method.scope == "experts":
        return max(layer for layer, _ in experts)
    return settings.objectives.rmu_layer


def _loss(
    run: Quantities, method: Method, settings: UnlearningSettings, step: int
) -> tuple[Tensor, Tensor]:
    """Return a step's objective (l_f + lambda l_r) and alpha * L_anchor: Eq. 4."""
    quantities, numbers = needs(_objective(method))
    now = run.at(step)
    loss = OBJECTIVES[_objective(method)](
        **{name: getattr(now, name) for name in sorted(quantities)},
        **{name: getattr(settings.objectives, name) for name in sorted(numbers)},
    )
    return loss, method.anchor_weight * run.anchor.loss()


def _objective(method: Method) -> str:
    assert method.objective is not None  # Method refuses a scope without one
    return method.objective


def _budget(settings: UnlearningSettings, learning_rate: float) -> Budget:
    return Budget(
        learning_rate=learning_rate,
        steps=settings.steps,
        evaluate_every=settings.evaluate_every,
        gradient_clip=settings.gradient_clip,
        forget_until=settings.forget_until,
    )
