"""What is done to a model: by which method, to which experts, with which samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seuf.moe.loading import LanguageModel
from seuf.unlearning.draws import Samples, draws, used_by
from seuf.unlearning.loop import Budget
from seuf.unlearning.objectives import OBJECTIVES, anchor_for
from seuf.unlearning.quantities import Feed, Quantities, needs, steering_vector
from seuf.unlearning.scopes import Experts, Scope
from seuf.unlearning.settings import Method, UnlearningSettings
from seuf.unlearning.trunk import Trunk


@dataclass(frozen=True)
class Treatment:
    """What is done to a base model.

    Attributes:
        samples: Token ids of the two sets, see `samples_of`.
        experts: The experts under treatment, (layer, expert); not used by other scopes.
        method: Scope, objective, anchor, learning rates.
        settings: The budget.
        seed: Decides the order of the samples and RMU's direction.
    """

    samples: Samples
    experts: Experts
    method: Method
    settings: UnlearningSettings
    seed: int


def quantities_of(base: LanguageModel, scope: Scope, treatment: Treatment) -> Quantities:
    """Return what the treatment's objective will ask for; the model is in its original state."""
    method, settings, seed = treatment.method, treatment.settings, treatment.seed
    anchored = treatment.experts if method.scope == "experts" and method.anchor_weight else []
    coefficient = method.steering_coefficient or settings.objectives.rmu_steering_coefficient
    batch_size = method.batch_size or settings.batch_size
    steps = draws(treatment.samples, settings.steps, batch_size, seed)
    needed = needs(_objective(method))[0]
    return Quantities(
        Trunk(
            base,
            treatment.samples.both(),
            scope.first_layer,
            used=used_by(steps, needed),
            batch_size=2 * batch_size,
            cached=settings.prefix_cache,
        ),
        steps,
        layer=_steered_layer(treatment),
        steering=steering_vector(base.model.config.hidden_size, coefficient, seed),
        anchor=anchor_for(base.model, anchored, method.anchor_on),
        needed=needed,
    )


def uses_head(treatment: Treatment) -> bool:
    """Tell if the treatment's objective is made of token losses."""
    return "forget_nll" in needs(_objective(treatment.method))[0]


def _steered_layer(treatment: Treatment) -> int:
    if treatment.method.scope == "experts":
        return max(layer for layer, _ in treatment.experts)
    return treatment.settings.objectives.rmu_layer


def loss_of(run: Quantities, treatment: Treatment, feed: Feed) -> tuple[Tensor, Tensor]:
    """Return a step's objective (l_f + lambda l_r) and alpha * L_anchor: Eq. 4."""
    objective = _objective(treatment.method)
    quantities, numbers = needs(objective)
    now, settings = run.at(feed), treatment.settings.objectives
    loss = OBJECTIVES[objective](
        **{name: getattr(now, name) for name in sorted(quantities)},
        **{name: getattr(settings, name) for name in sorted(numbers)},
    )
    if not run.anchor.layers:
        return loss, loss.new_zeros(())
    return loss, treatment.method.anchor_weight * run.anchor.loss()


def _objective(method: Method) -> str:
    assert method.objective is not None  # Method refuses a scope without one
    return method.objective


def budget_of(settings: UnlearningSettings, learning_rate: float) -> Budget:
    """Return what one learning rate may spend."""
    return Budget(
        learning_rate=learning_rate,
        steps=settings.steps,
        evaluate_every=settings.evaluate_every,
        gradient_clip=settings.gradient_clip,
        forget_until=settings.forget_until,
        recorded=settings.cuda_graph,
    )
