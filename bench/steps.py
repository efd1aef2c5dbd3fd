"""A training step of one expert and its router, beside the same step in plain transformers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import torch

from bench import floors, peers, shapes
from bench.measure import Cost, Machine, cost
from seuf.moe.architectures import decoder, input_device, moe_layers
from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import eq4_step
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.recording import RecordedStep
from seuf.unlearning.scopes import Scope, selected_experts
from seuf.unlearning.settings import Experts, Method, ObjectiveSettings, UnlearningSettings

EXPERT = 3


def steps(
    base: LanguageModel, machine: Machine, device: str, batch: int, length: int, plain: bool
) -> Iterator[dict[str, Any]]:
    """Yield what a step of GDiff and of RMU costs at three depths, ours and plain."""
    layers = moe_layers(base.model)
    for depth in (1.0, 0.75, 0.5):
        layer = layers[int(depth * len(layers)) - 1]
        for objective in ("gdiff", "rmu"):
            ours = _ours(base, layer.index, objective, device, batch, length)
            row = {
                "depth": f"{depth:.0%}",
                "objective": objective,
                "ms": 1e3 * ours.seconds,
                "peak GB": ours.peak / 1e9,
                "of floor": _floor(base, layer.index, objective, 2 * batch * length, machine)
                / ours.seconds,
            }
            if plain:
                theirs = _plain(base, layer.index, objective, batch, length)
                row |= {"plain ms": 1e3 * theirs.seconds, "plain peak GB": theirs.peak / 1e9}
                row["faster"] = theirs.seconds / ours.seconds
            yield row


class Run(NamedTuple):
    """What `unlearn` is given, but for the judge."""

    forget: list[list[int]]
    retain: list[list[int]]
    method: Method
    experts: Experts
    settings: UnlearningSettings

    def passes(self, base: LanguageModel, scope: Scope) -> ForwardPasses:
        """Return the run's forward passes."""
        layer = self.experts[0][0]
        sets = self.forget, self.retain
        return ForwardPasses(base, *sets, self.method, self.settings, scope.first_layer, layer, 0)

    def step(self, base: LanguageModel, scope: Scope, passes: ForwardPasses) -> RecordedStep:
        """Return the run's training step; the scope's context is open."""
        anchor = Anchor(base.model, self.experts, self.method.anchor_on)
        step = eq4_step(scope, passes, anchor, self.method, self.settings, 1e-5)
        return RecordedStep(step, scope, self.settings.cuda_graph)


def one_expert(
    base: LanguageModel, layer: int, objective: str, batch: int, length: int, **settings: Any
) -> Run:
    """Return a run of SEUF on one expert with random samples."""
    vocabulary = base.model.config.vocab_size
    forget, retain = (shapes.samples(4 * batch, length, vocabulary, seed) for seed in (0, 1))
    shared = UnlearningSettings(
        batch_size=batch,
        max_length=length,
        objectives=ObjectiveSettings(rmu_steering_coefficient=20.0),
        **settings,
    )
    method = Method(scope="experts", selection="affinity", objective=objective, anchor_weight=1.0)
    return Run(forget, retain, method, [(layer, EXPERT)], shared)


def _ours(
    base: LanguageModel, layer: int, objective: str, device: str, batch: int, length: int
) -> Cost:
    run = one_expert(base, layer, objective, batch, length, steps=60)
    scope = selected_experts(base.model, run.experts)
    passes, number, original = run.passes(base, scope), count(), scope.snapshot()
    with scope, run.step(base, scope, passes) as step:
        measured = cost(lambda: step(passes.batch(next(number))), device, repeats=30, warm=8)
    scope.restore(original)
    return measured


def _plain(base: LanguageModel, layer: int, objective: str, batch: int, length: int) -> Cost:
    device = input_device(base.model)
    vocabulary = base.model.config.vocab_size
    forget, retain = (
        torch.tensor(shapes.samples(batch, length, vocabulary, seed), device=device)
        for seed in (0, 1)
    )
    if objective == "gdiff":
        loss = peers.gdiff(base.model, forget, retain)
    else:
        loss = peers.rmu(base.model, forget, retain, layer, 20.0)
    training = peers.MaskedTraining(base.model, layer, EXPERT)
    measured = cost(lambda: training.step(loss()), device.type, repeats=5, warm=2)
    training.close()
    return measured


def _floor(base: LanguageModel, layer: int, objective: str, tokens: int, machine: Machine) -> float:
    """Return the floor of a step whose prefix is known: forward, and backward above the layer."""
    model = base.model
    last = len(decoder(model).layers)
    own = next(one for one in moe_layers(model) if one.index == layer)
    here = floors.layers(model, layer, layer + 1, tokens)
    expert = floors.expert(own, tokens)  # its gradients: of both weights and of what is between
    work = here + expert + expert
    if objective == "gdiff":
        above = floors.layers(model, layer + 1, last, tokens)
        head = floors.head(model, tokens)
        work = work + above + above + head + head
    return work.seconds(machine)
