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
NUMBERS = ("loss", "anchor", "gradient_norm")


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

    Between two looks nothing is asked of the device, so that a GPU need not wait. A step whose
    loss or gradient is not finite is noticed at the next look, which is then not taken: the scope
    goes back to the best checkpoint.

    Args:
        scope: What may change, at its original state.
        loss_at: Returns a step's objective and its weighted anchor loss.
        judge: Scores the model as it is.
        budget: Steps, learning rate, when to look.
        best: Updated in place, its log too; a stop before the last step is logged with its reason.
    """
    masters = scope.masters.values()
    optimizer = torch.optim.AdamW(masters, lr=budget.learning_rate, weight_decay=0.0, fused=True)
    since_look: list[Tensor] = []
    for step in tqdm(range(1, budget.steps + 1), desc=f"lr {budget.learning_rate:g}", disable=None):
        since_look.append(_step(scope, optimizer, loss_at(step - 1), budget.gradient_clip))
        if step % budget.evaluate_every and step != budget.steps:
            continue
        entry, broken = _entry(step, since_look)
        entry = {"learning_rate": budget.learning_rate, **entry}
        since_look.clear()
        if broken:
            best.log.append({**entry, "stopped": "loss or gradient is not finite"})
            scope.restore(best.tensors)
            return
        judgement, overlap = judge()
        best.consider(scope, judgement)
        done = judgement.forget_efficacy <= _goal(budget, judgement)
        stopped = "forgotten" if done else None
        best.log.append({**entry, **_columns(judgement, overlap), "stopped": stopped})
        if done:
            return


def _step(
    scope: Scope, optimizer: torch.optim.Optimizer, losses: tuple[Tensor, Tensor], clip: float
) -> Tensor:
    """Update the scope; return `NUMBERS`, the norm before clipping, without asking for them."""
    objective, anchor = losses
    (objective + anchor).backward()
    norm = torch.nn.utils.clip_grad_norm_(scope.gradients_to_masters(), clip)
    optimizer.step()
    scope.write_back()
    scope.clear_gradients()
    return torch.stack([number.detach().to(norm.device) for number in (objective, anchor, norm)])


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
