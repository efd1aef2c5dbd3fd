"""Algorithm 1 of Zhuang et al. 2025 (https://arxiv.org/abs/2411.18797): start reading here.

    1. take a random part of the forget set          attribution.calibration_samples
    2. record the gate affinity of every expert      attribution.capture (Eq. 2: moe.routing)
    3. rank, select the top M                        selection.select_experts
    4. activate those experts and their routers      scopes.open_scope
    5. unlearn, with the router anchored             eq4_step and train_at, below (Eq. 4)

Steps 1 to 3 run once a study. `unlearn` does steps 4 and 5 for one method, baselines included:
they differ only in their scope. Where we depart from the paper:

1. The anchor is on the full softmax by default; with g of Eq. 3 it hardly moves the router.
2. The checkpoint is chosen by a rule on the selection questions, not by hand: of those that have
   forgotten enough, the one of most utility. The untouched model is no candidate.
3. Every learning rate of the method is tried with the same budget.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from seuf.inputs import InputError
from seuf.logs import warn_once
from seuf.moe.architectures import check_positions, decoder_layer
from seuf.moe.backoff import must_fit
from seuf.moe.batches import Sample, pack, samples_by_text, tell_long
from seuf.moe.deltas import Delta
from seuf.moe.digests import check_unchanged, checkpoint_dtypes, model_digest
from seuf.moe.forward import keep_on_device
from seuf.moe.loading import LanguageModel
from seuf.moe.sharding import agreed, ranks, total
from seuf.moe.threads import threads
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.evaluations import (
    STEP_NUMBERS,
    UNMOVED,
    Evaluation,
    EvaluationPath,
    Evaluator,
    Judge,
)
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import OBJECTIVES, is_steered
from seuf.unlearning.recording import RecordedStep
from seuf.unlearning.routing_aware import constrain_routers
from seuf.unlearning.samples import StepBatch
from seuf.unlearning.scopes import Deletion, Scope, open_scope
from seuf.unlearning.settings import (
    Experts,
    Method,
    UnlearningSettings,
    check_steered_layer,
    sharing,
)

log = logging.getLogger(__name__)
# A step is not split automatically: how it is split decides the last bits of its result.
SMALLER = (
    "set unlearning.micro_batch_size to fewer samples, which leaves the step what it is, or lower "
    "unlearning.max_length"
)


@dataclass(frozen=True)
class Unlearned:
    """The result of a method.

    Attributes:
        delta: The changed tensors.
        log: One row for each evaluation on the selection questions, with the keys `LOG_COLUMNS`.
        trained_share: Share of the model's parameters that were in training.
    """

    delta: Delta
    log: list[dict[str, Any]]
    trained_share: float


def unlearn(
    base: LanguageModel,
    forget: Sequence[Sequence[int]],
    retain: Sequence[Sequence[int]],
    method: Method,
    experts: Experts,
    judge: Judge,
    settings: UnlearningSettings | None = None,
    seed: int = 0,
) -> Unlearned:
    """Return what a method changes in the base model, which is the same afterwards as before.

    Args:
        base: The original model.
        forget: Token ids of the samples to forget, see `samples_of`.
        retain: Token ids of the samples to keep.
        method: Scope, objective, anchor, learning rates.
        experts: The selected experts, for scopes `experts` and `deletion`.
        judge: Scores a model on the selection questions, without writing to it.
        settings: The budget.
        seed: Decides the order of the samples and RMU's direction.

    Raises:
        InputError: If a set has no sample of two tokens, the model is in training mode or lacks a
            layer or expert that the method names, experts are needed and missing, the judge returns
            no `Evaluation`, or memory runs out.
        RuntimeError: If the judge wrote to the model.
    """
    settings, model, digest = settings or UnlearningSettings(), base.model, model_digest(base.model)
    if method.scope == "nothing":
        return Unlearned(Delta({}, digest, checkpoint_dtypes(model)), [], 0.0)
    check_samples(forget, retain)
    check_processes(method, settings)
    if model.training:
        raise InputError("The model is in training mode: call model.eval().")
    if method.scope in ("experts", "deletion") and not experts:
        raise InputError(f"Scope {method.scope!r} needs at least one expert; none was given.")
    with ExitStack() as stack:
        stack.callback(check_unchanged, model, digest)
        stack.enter_context(threads(settings.threads))
        layers, uses_head = {layer for layer, _ in experts}, not is_steered(method.objective)
        stack.enter_context(keep_on_device(model, layers, head=uses_head))
        scope = stack.enter_context(open_scope(model, method, experts, seed))
        original, share = scope.snapshot(), scope.trained_share()
        stack.callback(scope.restore, original)
        steered = steered_layer(model, method, experts, settings, scope)
        evaluate = Evaluator(base, judge, forget, retain, settings, [scope.first_layer]).of(scope)
        path = EvaluationPath(evaluate()[0], settings.forget_target)
        if path.original.forget_efficacy <= path.original.chance:
            log.warning("The model answers forget questions no better than by guessing.")
        if isinstance(scope, Deletion):
            rate = {"learning_rate": method.learning_rates[0]}  # the log wants one; it is not used
            path.add({**rate, "step": 0}, path.original, UNMOVED)
            scope.delete()
            path.add({**rate, "step": 1}, *evaluate(), scope)
        else:
            passes = ForwardPasses(
                base, forget, retain, method, settings, scope.first_layer, steered, seed, experts
            )
            train(base, retain, passes, method, experts, evaluate, scope, original, settings, path)
        if path.tensors is None:
            log.warning("No checkpoint: training broke before the first evaluation.")
        if path.is_constant():
            log.warning(
                "The judge scored all %d checkpoints alike, so the choice among them means "
                "nothing: does it ask the model that it is given?",
                len(path.log),
            )
        scope.restore(path.tensors or original)
        path.tensors = None  # a copy of all that is trained
        changed = scope.changed(original)
    return Unlearned(Delta.of(model, changed, digest), path.log, share)


def train(
    base: LanguageModel,
    retain: Sequence[Sequence[int]],
    passes: ForwardPasses,
    method: Method,
    experts: Experts,
    evaluate: Callable[[], tuple[Evaluation, dict[str, float]]],
    scope: Scope,
    original: dict[str, Tensor],
    settings: UnlearningSettings,
    path: EvaluationPath,
) -> None:
    """Train with each learning rate in turn, always from the original, and restore that."""
    if method.router_null_space is not None:
        constrain_routers(scope, base, retain, method.router_null_space)
    anchored = experts if method.scope == "experts" and method.anchor_weight else []
    anchor = Anchor(scope.model, anchored, method.anchor_on, method.anchor_target)
    with scope:
        for learning_rate in method.learning_rates:
            update = eq4_step(scope, passes, anchor, method, settings, learning_rate)
            with RecordedStep(update, scope, settings.cuda_graph) as step:
                train_at(learning_rate, step, passes.batch, evaluate, scope, settings, path)
            scope.restore(original)


def eq4_step(
    scope: Scope,
    passes: ForwardPasses,
    anchor: Anchor,
    method: Method,
    settings: UnlearningSettings,
    learning_rate: float,
) -> Callable[[StepBatch], Tensor]:
    """Return the training step: AdamW on l_f(D_f) + lambda l_r(D_r) + alpha L_anchor, Eq. 4.

    Micro-batches, and processes that share the model (`seuf.moe.sharding`), each add their part to
    means over the whole batch, so that loss and gradient are the whole batch's, to rounding.

    The step returns `STEP_NUMBERS`, (3,): the objective, the weighted anchor loss, and the norm of
    the gradient before clipping.
    """
    objective = OBJECTIVES[str(method.objective)]
    numbers = settings.objectives.numbers_for(str(method.objective))
    masters = list(scope.masters.values())
    on_gpu = all(master.is_cuda for master in masters)
    optimizer = torch.optim.AdamW(
        masters, lr=learning_rate, weight_decay=0.0, fused=True, capturable=on_gpu
    )

    def step(batch: StepBatch) -> Tensor:
        losses = []
        for part in passes.micro_batches(batch):
            with anchor.watching(part.forget_mask, batch.forget_mask):
                inputs = passes.objective_inputs(part, batch)
            loss = objective(**inputs, **numbers)  # l_f + lambda l_r
            if loss.dim() or not loss.requires_grad:
                raise InputError(
                    f"Objective {method.objective!r} must return one number that depends on the "
                    f"model; it returned {tuple(loss.shape)}, requires_grad={loss.requires_grad}."
                )
            anchoring = method.anchor_weight * anchor.loss(loss.device)  # alpha L_anchor, Eq. 3
            (loss + anchoring).backward()
            scope.gradients_to_masters()
            losses.append(torch.stack([loss.detach(), anchoring.detach()]))
        norm = scope.clip_gradients(settings.gradient_clip)
        optimizer.step()
        scope.note_changes()
        scope.write_back()
        scope.clear_gradients()
        return torch.cat([total(torch.stack(losses).sum(0)).to(norm.device), norm[None]])

    return step


def train_at(
    learning_rate: float,
    step: RecordedStep,
    batch_at: Callable[[int], Any],
    evaluate: Callable[[], tuple[Evaluation, dict[str, float]]],
    scope: Scope,
    settings: UnlearningSettings,
    path: EvaluationPath,
) -> None:
    """Train with one learning rate, and add its evaluations to the path.

    Between two evaluations nothing is read from the device, so that a GPU need not wait. So a loss
    or gradient that is not finite is noticed only when the next evaluation is due; training then
    ends without it, and the log says why. It also ends once the path is over.
    """
    pending: list[Tensor] = []  # numbers of the steps since the last evaluation
    path.add({"learning_rate": learning_rate, "step": 0}, path.original, UNMOVED)
    steps = range(1, settings.steps + 1)
    for number in tqdm(steps, desc=f"lr {learning_rate:g}", disable=None):
        with must_fit(SMALLER):
            pending.append(step(batch_at(number - 1)))
        if number % settings.evaluate_every and number != settings.steps:
            continue
        step.wait()
        rows = agreed(torch.stack(pending).tolist())
        broken = [i for i, row in enumerate(rows) if not math.isfinite(sum(row))]
        logged = broken[0] if broken else len(rows) - 1
        numbers = {
            "learning_rate": learning_rate,
            "step": number - len(rows) + 1 + logged,
            **dict(zip(STEP_NUMBERS, rows[logged], strict=True)),
        }
        pending.clear()
        if broken:
            path.stop("loss or gradient is not finite", numbers)
            scope.restore(path.tensors or {})  # the model must not keep what is not finite
            return
        path.add(numbers, *evaluate(), scope)
        if why := path.is_over(settings.stop_at):
            path.stop(why)
            return


def samples_of(
    base: LanguageModel,
    texts: Sequence[str],
    settings: UnlearningSettings | None = None,
    prompts: Sequence[str] = (),
) -> list[Sample]:
    """Return the samples of texts, several texts packed into one if the settings say so.

    Args:
        base: The model and its tokenizer.
        texts: The texts.
        settings: Length, and whether to pack.
        prompts: The beginning of each text, which no loss counts; see `samples_by_text`.

    Raises:
        InputError: If a sample is longer than the model allows, or texts and prompts differ in
            number.
    """
    settings = settings or UnlearningSettings()
    length, split = settings.max_length, settings.long_texts == "split"
    by_text = [
        [sample for sample in parts if len(sample) > 1]  # a single token predicts nothing
        for parts in samples_by_text(base.tokenizer, texts, length, prompts, split)
    ]
    samples = [sample for parts in by_text for sample in parts]
    if message := tell_long(base.tokenizer, texts, length, split, "unlearning"):
        warn_once(log, message, logging.INFO if split else logging.WARNING)  # once for all methods
    if left_out := sum(map(bool, texts)) - sum(map(bool, by_text)):
        log.warning(
            "%d of %d texts are left out: nothing of them counts within %d tokens "
            "(unlearning.max_length).",
            left_out,
            len(texts),
            settings.max_length,
        )
    if settings.pack:
        random.Random(0).shuffle(samples)  # neighbours in a file are about the same thing
        samples = pack(samples, settings.max_length)
    check_positions(base.model, samples, "set unlearning.max_length to {} or less")
    return samples


def check_samples(forget: Sequence[Sequence[int]], retain: Sequence[Sequence[int]]) -> None:
    """Check that there are samples to train on.

    Raises:
        InputError: If a set has no sample, or one of fewer than two tokens.
    """
    for name, samples in (("forget", forget), ("retain", retain)):
        if not samples or min(map(len, samples)) < 2:
            raise InputError(f"The {name} set has no sample, or one of fewer than two tokens.")


def check_processes(method: Method, settings: UnlearningSettings) -> None:
    """Check that as many processes share the model as the settings say.

    Raises:
        InputError: With both numbers.
    """
    if (processes := sharing(method, settings)) != ranks():
        raise InputError(
            f"unlearning.sharded wants {processes} processes to share the model of a method of "
            f"scope {method.scope!r}, and {ranks()} do: a study's stages start them, a study of "
            "spread and Python code do not; set it to 1 there."
        )


def steered_layer(
    model: nn.Module, method: Method, experts: Experts, settings: UnlearningSettings, scope: Scope
) -> int:
    """Return the layer whose output RMU steers: that of the highest expert, or `rmu_layer`."""
    if method.scope == "experts":
        return max(layer for layer, _ in experts)
    if is_steered(method.objective):
        decoder_layer(model, settings.objectives.rmu_layer)  # raises if there is no such layer
        check_steered_layer(method, settings, scope.first_layer)
    return settings.objectives.rmu_layer
