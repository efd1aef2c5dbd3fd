"""Training runs of a model that is one number, with a judge that reads from a script."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seuf.unlearning.algorithm import eq4_step, train_at
from seuf.unlearning.evaluations import Evaluation, EvaluationPath
from seuf.unlearning.objectives import OBJECTIVES
from seuf.unlearning.recording import RecordedStep
from seuf.unlearning.scopes import Scope, everything
from seuf.unlearning.settings import Method, UnlearningSettings

OVERLAP = {"forget": 0.9, "retain": 1.0}
SETTINGS = UnlearningSettings(steps=6, evaluate_every=2, gradient_clip=1.0)
Loss = Callable[[int], Tensor]


def from_half() -> EvaluationPath:
    """Return the path of an original with forget efficacy .75 and chance .25; half is enough."""
    return EvaluationPath(Evaluation(0.75, 0.9, 0.25), target=0.5)


class OneWeightPasses:
    """Forward passes of which a step's batch, and the objective's one input, is its number."""

    def micro_batches(self, batch: Any) -> list[Any]:
        """Return the batch alone."""
        return [batch]

    def objective_inputs(self, batch: Any, whole: Any) -> dict[str, Any]:
        """Return the number of the step, as if it were a loss."""
        return {"forget_nll": batch.step}

    def batch(self, step: int) -> Any:
        """Return the step's number."""
        return SimpleNamespace(step=step, forget_mask=None)


class AnchorOf:
    """An anchor whose loss is what a function returns."""

    def __init__(self, loss: Callable[[], Tensor]) -> None:
        self._loss, self.watching = loss, lambda mask, whole: nullcontext()

    def loss(self, device: torch.device) -> Tensor:
        """Return the anchor loss."""
        return self._loss()


def one_weight() -> Scope:
    """Return the scope of a model that is one number, 0 at first."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return everything(layer)


def upwards(scope: Scope) -> Loss:
    """Return a loss that makes every AdamW step add the learning rate, nearly."""
    return lambda step: -scope.model.weight.sum()


def scripted(*evaluations: tuple[float, float]) -> Callable[[], tuple[Evaluation, dict]]:
    """Return what gives (forget efficacy, utility) in this order; chance is .25."""
    answers: Iterator[tuple[float, float]] = iter(evaluations)
    return lambda: (Evaluation(*next(answers), 0.25), OVERLAP)


def train(
    scope: Scope,
    evaluate: Callable,
    loss: Loss,
    path: EvaluationPath,
    anchor: Callable[[], Tensor] = lambda: torch.zeros(()),
    learning_rate: float = 0.1,
    **changes: object,
) -> None:
    """Train the scope, whose context is open, with a loss of the step's number as objective."""
    settings = SETTINGS.model_copy(update=changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, "scripted", lambda forget_nll: loss(forget_nll))
        method = Method(scope="everything", objective="scripted")
        anchored = method.model_copy(update={"anchor_weight": 1.0})
        passes = OneWeightPasses()
        update = eq4_step(scope, passes, AnchorOf(anchor), anchored, settings, learning_rate)
        with RecordedStep(update, scope) as step:
            train_at(learning_rate, step, passes.batch, evaluate, scope, settings, path)


def run(
    evaluate: Callable, loss: Callable[[Scope], Loss] = upwards, **changes: Any
) -> tuple[Scope, EvaluationPath]:
    """Return the scope and the path after training."""
    scope, path = one_weight(), from_half()
    with scope:
        train(scope, evaluate, loss(scope), path, **changes)
    return scope, path
