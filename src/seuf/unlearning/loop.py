"""The loop all methods share: steps, a look every few steps, the best checkpoint, an early stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from seuf.unlearning.judgement import Judgement
from seuf.unlearning.scopes import Scope

Loss = Callable[[int], tuple[Tensor, Tensor]]
Judge = Callable[[], tuple[Judgement, dict[str, float]]]


@dataclass(frozen=True)
class Budget:
    """What one training run may spend."""

    learning_rate: float
    steps: int
    evaluate_every: int
    gradient_clip: float
    forget_until: float | None


@dataclass
class Best:
    """The best checkpoint so far and the log of all looks."""

    tensors: dict[str, Tensor]
    balance: float
    log: list[dict[str, object]] = field(default_factory=list)

    def consider(self, scope: Scope, judgement: Judgement) -> None:
        """Keep the scope's tensors if they are judged better than the best so far."""
        if judgement.balance > self.balance:
            self.tensors, self.balance = scope.snapshot(), judgement.balance


def train(scope: Scope, loss_at: Loss, judge: Judge, budget: Budget, best: Best) -> None:
    """Train the scope's tensors and keep what is best in `best`.

    Args:
        scope: What may change, at its original state.
        loss_at: Returns a step's objective and its weighted anchor loss.
        judge: Scores the model as it is.
        budget: Steps, learning rate, when to look.
        best: Updated in place, its log too; a stop before the last step is logged with its reason.
    """
    optimizer = torch.optim.AdamW(scope.masters.values(), lr=budget.learning_rate, weight_decay=0.0)
    for step in tqdm(range(1, budget.steps + 1), desc=f"lr {budget.learning_rate:g}", disable=None):
        objective, anchor = loss_at(step - 1)
        norm = _backward(scope, objective + anchor, budget.gradient_clip)
        numbers = {"loss": objective.item(), "anchor": anchor.item(), "gradient_norm": norm}
        entry = {"learning_rate": budget.learning_rate, "step": step, **numbers}
        if not math.isfinite(sum(numbers.values())):
            best.log.append({**entry, "stopped": "loss or gradient is not finite"})
            scope.clear_gradients()
            return
        _update(scope, optimizer)
        if step % budget.evaluate_every and step != budget.steps:
            continue
        judgement, overlap = judge()
        best.consider(scope, judgement)
        done = judgement.forget_efficacy <= _goal(budget, judgement)
        stopped = "forgotten" if done else None
        best.log.append({**entry, **_columns(judgement, overlap), "stopped": stopped})
        if done:
            return


def _backward(scope: Scope, loss: Tensor, clip: float) -> float:
    """Give the masters their clipped gradients; return the norm before clipping."""
    loss.backward()
    return float(torch.nn.utils.clip_grad_norm_(scope.gradients_to_masters(), clip))


def _update(scope: Scope, optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    scope.write_back()
    scope.clear_gradients()


def _goal(budget: Budget, judgement: Judgement) -> float:
    return judgement.chance if budget.forget_until is None else budget.forget_until


def _columns(judgement: Judgement, overlap: dict[str, float]) -> dict[str, object]:
    routing = {f"overlap_{name}": value for name, value in overlap.items()}
    return {**asdict(judgement), "balance": judgement.balance, **routing}
