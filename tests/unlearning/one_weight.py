"""Training runs of a model that is one number, with a judge that reads from a script."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import nn

from seuf.unlearning.judgement import Judgement
from seuf.unlearning.loop import Best, Budget, Loss, train, updates_of
from seuf.unlearning.scopes import Scope, everything

OVERLAP = {"forget": 0.9, "retain": 1.0}


def one_weight() -> Scope:
    """Return the scope of a model that is one number, 0 at first."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return everything(layer)


def upwards(scope: Scope) -> Loss:
    """Return a loss that makes every AdamW step add the learning rate, nearly."""
    return lambda step: (-scope.model.weight.sum(), torch.zeros(()))


def scripted(*judgements: tuple[float, float]) -> Callable[[], tuple[Judgement, dict[str, float]]]:
    """Return a judge that gives (forget efficacy, utility) in this order; chance is .25."""
    answers: Iterator[tuple[float, float]] = iter(judgements)
    return lambda: (Judgement(*next(answers), 0.25), OVERLAP)


BUDGET = Budget(learning_rate=0.1, steps=6, evaluate_every=2, gradient_clip=1.0, forget_until=None)


def run(judge: Callable, loss: Callable[[Scope], Loss] = upwards, **changes: object) -> tuple:
    """Return the scope and the best checkpoint after training; the original has balance .25."""
    scope, budget = one_weight(), replace(BUDGET, **changes)
    best = Best(scope.snapshot(), balance=0.25)
    with scope:
        train(updates_of(scope, loss(scope), budget), judge, budget, best)
    return scope, best
