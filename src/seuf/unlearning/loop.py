"""The loop all methods share: steps, a look every few steps, the best checkpoint, an early stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from seuf.moe.backoff import must_fit
from seuf.unlearning.judgement import Judgement
from seuf.unlearning.scopes import Scope
from seuf.unlearning.updates import NUMBERS, Loss, Updates

# Not split by itself: which samples stand in a step together is part of the method.
SMALLER = "lower unlearning.batch_size or unlearning.max_length, to which packed samples are joined"
Judge = Callable[[], tuple[Judgement, dict[str, float]]]


@dataclass(frozen=True)
class Budget:
    """What one training run may spend, and whether its steps may be recorded (see `Updates`)."""

    learning_rate: float
    steps: int
    evaluate_every: int
    gradient_clip: float
    forget_until: float | None
    recorded: bool = True


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


class Keeper(Protocol):
    """Keeps how far a run has come, see `resumption`."""

    def begin(self, update: Updates) -> int:
        """Bring the updates to where they were; return the steps that are done."""

    def keep(self, update: Updates, step: int, over: bool) -> None:
        """Keep how things are after a look; `over` tells that no step follows."""


def updates_of(scope: Scope, loss: Loss, budget: Budget) -> Updates:
    """Return the updates that a budget pays for.

    Args:
        scope: What may change, at its original state; its context is open.
        loss: Returns a feed's objective and its weighted anchor loss.
        budget: Its learning rate, where the gradient is clipped, whether steps may be recorded.
    """
    return Updates(scope, loss, budget.learning_rate, budget.gradient_clip, budget.recorded)


def train(
    update: Updates,
    judge: Judge,
    budget: Budget,
    best: Best,
    feed_at: Callable[[int], Any] = int,
    keeper: Keeper | None = None,
) -> None:
    """Train the updates' scope and keep what is best of it in `best`.

    Between two looks nothing is asked of the device, so that a GPU need not wait. A step whose
    loss or gradient is not finite is noticed at the next look, which is then not taken: the scope
    goes back to the best checkpoint.

    Args:
        update: What a step does, see `updates_of`.
        judge: Scores the model as it is.
        budget: That of the updates: steps, when to look.
        best: Updated in place, its log too; a stop before the last step is logged with its reason.
        feed_at: Returns what a step takes from outside; by default the number of the step.
        keeper: Is told of every look; knows of those before, if the run was killed.
    """
    since_look: list[Tensor] = []
    first = keeper.begin(update) if keeper else 0
    for step in _bar(first, budget):
        with must_fit(SMALLER):
            since_look.append(update(feed_at(step - 1)))
        if step % budget.evaluate_every and step != budget.steps:
            continue
        update.wait()
        entry, broken = _entry(step, since_look)
        since_look.clear()
        over = _look(update.scope, judge, budget, best, entry, broken)
        if keeper:
            keeper.keep(update, step, over or step == budget.steps)
        if over:
            return


def _bar(first: int, budget: Budget) -> Iterable[int]:
    """Return the steps from the first that is not done; a terminal shows how far they are."""
    steps, what = range(first + 1, budget.steps + 1), f"lr {budget.learning_rate:g}"
    return tqdm(steps, desc=what, initial=first, total=budget.steps, disable=None)


def _look(
    scope: Scope,
    judge: Judge,
    budget: Budget,
    best: Best,
    entry: dict[str, float],
    broken: bool,
) -> bool:
    """Log a look, and tell if training is over."""
    logged = {"learning_rate": budget.learning_rate, **entry}
    if broken:
        best.log.append({**logged, "stopped": "loss or gradient is not finite"})
        scope.restore(best.tensors)
        return True
    judgement, overlap = judge()
    best.consider(scope, judgement)
    done = judgement.forget_efficacy <= _goal(budget, judgement)
    stopped = "forgotten" if done else None
    best.log.append({**logged, **_columns(judgement, overlap), "stopped": stopped})
    return done


def _entry(step: int, since_look: list[Tensor]) -> tuple[dict[str, float], bool]:
    """Return the step and numbers of the last step, or of the first that is not finite."""
    rows = torch.stack(since_look).tolist()
    broken = next((i for i, row in enumerate(rows) if not math.isfinite(sum(row))), None)
    place = len(rows) - 1 if broken is None else broken
    at = step - len(rows) + 1 + place
    return {"step": at, **dict(zip(NUMBERS, rows[place], strict=True))}, broken is not None


def _goal(budget: Budget, judgement: Judgement) -> float:
    return judgement.chance if budget.forget_until is None else budget.forget_until


def _columns(judgement: Judgement, overlap: dict[str, float]) -> dict[str, object]:
    routing = {f"overlap_{name}": value for name, value in overlap.items()}
    return {**asdict(judgement), "balance": judgement.balance, **routing}
