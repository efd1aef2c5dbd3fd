"""The layer chosen by trial (`selection: pilot`), instead of by routing alone.

Affinities of different layers compare little, and which layer is trained matters more than which
expert of it. So each layer's best expert is trained by the method itself, and the layer is kept
whose model keeps most utility where `target` of the way to chance is forgotten, on the selection
questions (`seuf.forgetting`). `algorithm.unlearn` then spends the full budget there.

1. Layers share passes: what enters each of them comes from one pass over the samples, and so it
   does for the questions and for the routing probe. A trial has the bits of a run of its own.
2. A trial ends when its number is known: at the first evaluation that reaches the target.
3. It ends when it is dominated: its utility is already below what the best trial so far has at the
   target, by more than `margin`, and is taken not to come back while more is forgotten.
4. Where no trial reaches the target, the layer that forgets most is kept.
5. A sweep (`PilotSettings.sweep`) is to tell what each layer keeps: a judge tells of the test
   questions too, a trial goes on until these have forgotten the target as well, or as a run ends,
   and none is dominated. Its choice differs from a pilot's only where a dominated trial would have
   come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from seuf.forgetting import ROUNDING, outcome, rank_of_outcome
from seuf.inputs import InputError
from seuf.moe.activations import HiddenStates
from seuf.moe.digests import check_unchanged, model_digest
from seuf.moe.forward import keep_on_device
from seuf.moe.loading import LanguageModel
from seuf.moe.threads import threads
from seuf.unlearning.algorithm import check_samples, steered_layer, train
from seuf.unlearning.evaluations import Evaluation, EvaluationPath, Judge, Looks
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import is_steered
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.settings import Experts, Method, PilotSettings, UnlearningSettings

Row = dict[str, Any]  # of a path, with the keys `evaluations.LOG_COLUMNS`


@dataclass(frozen=True)
class LayerChoice:
    """Which of the candidates was chosen, and by what.

    Attributes:
        experts: Those of the chosen layer.
        layers: Of each candidate, in the order of the trials, its best `learning_rate` and what
            `forgetting.outcome` says of it, with its `experts`, `steps` and `evaluations`.
        trials: The paths of all trials: rows with the keys `evaluations.LOG_COLUMNS`, `layer`,
            `expert` and `chosen`.
        steps: Updates that the trials took together.
        evaluations: Looks that they took together, with the one at the original.
    """

    experts: Experts
    layers: list[dict[str, Any]]
    trials: list[Row]
    steps: int
    evaluations: int


def choose_layer(
    base: LanguageModel,
    forget: Sequence[Sequence[int]],
    retain: Sequence[Sequence[int]],
    candidates: Sequence[Experts],
    method: Method,
    judge: Judge,
    settings: UnlearningSettings | None = None,
    pilot: PilotSettings | None = None,
    seed: int = 0,
) -> LayerChoice:
    """Return which candidate a method should train; the base model is left as it was.

    Args:
        base: The original model.
        forget: Token ids of the samples to forget, see `algorithm.samples_of`.
        retain: Token ids of the samples to keep.
        candidates: The experts of each layer to try, see `selection.best_of_layers`; the likeliest
            first, as those after it are given up sooner.
        method: Of scope `experts`; its learning rates are tried unless the pilot has others.
        judge: Scores a model on the selection questions; what it tells beside is only logged.
        settings: The budget of a whole run.
        pilot: That of a trial.
        seed: Decides the order of the samples, as in the run that follows.

    Raises:
        InputError: If there is no candidate, the method trains no experts, or as `unlearn`.
    """
    pilot = pilot or PilotSettings()
    settings = trial_settings(settings or UnlearningSettings(), pilot)
    if method.scope != "experts" or not candidates:
        raise InputError("A pilot needs a method of scope 'experts' and a layer to try it in.")
    check_samples(forget, retain)
    tried = method.model_copy(
        update={"learning_rates": pilot.learning_rates or method.learning_rates}
    )
    firsts = sorted({min(layer for layer, _ in experts) for experts in candidates})
    with ExitStack() as stack:
        stack.callback(check_unchanged, base.model, model_digest(base.model))
        stack.enter_context(threads(settings.threads))
        looks = Looks(base, judge, forget, retain, settings, firsts)
        prefixes: dict[int, HiddenStates | None] = {first: None for first in firsts if first}
        sweep = pilot.sweeps(method.objective)
        path = TrialPath(looks.at_the_original(), pilot.target, sweep, pilot.margin)
        for experts in candidates:
            path.begin(experts)
            _try(base, forget, retain, tried, experts, looks, settings, seed, prefixes, path)
    layers, best = judge_layers(candidates, path.log, pilot.target)
    names = _names(candidates[best]).items()
    chosen = [row | {"chosen": names <= row.items()} for row in path.log]
    return LayerChoice(
        experts=list(candidates[best]),
        layers=layers,
        trials=chosen,
        steps=sum(layer["steps"] for layer in layers),
        evaluations=1 + sum(layer["evaluations"] for layer in layers),
    )


def trial_settings(settings: UnlearningSettings, pilot: PilotSettings) -> UnlearningSettings:
    """Return the budget of a trial."""
    return settings.model_copy(
        update={
            "steps": pilot.steps or settings.steps,
            "evaluate_every": pilot.evaluate_every or settings.evaluate_every,
            "forget_target": pilot.target,
        }
    )


def _try(
    base: LanguageModel,
    forget: Sequence[Sequence[int]],
    retain: Sequence[Sequence[int]],
    method: Method,
    experts: Experts,
    looks: Looks,
    settings: UnlearningSettings,
    seed: int,
    prefixes: dict[int, HiddenStates | None],
    path: TrialPath,
) -> None:
    """Train a layer's experts with each learning rate, and add the evaluations to the path."""
    model, layers = base.model, {layer for layer, _ in experts}
    with ExitStack() as stack:
        stack.enter_context(keep_on_device(model, layers, head=not is_steered(method.objective)))
        scope = stack.enter_context(open_scope(model, method, experts, seed))
        original = scope.snapshot()
        stack.callback(scope.restore, original)
        steered, first = steered_layer(model, method, experts, settings, scope), scope.first_layer
        passes = ForwardPasses(
            base, forget, retain, method, settings, first, steered, seed, experts, prefixes
        )
        evaluate = looks.of(scope)
        train(base, retain, passes, method, experts, evaluate, scope, original, settings, path)
        path.tensors = None


class TrialPath(EvaluationPath):
    """The evaluations of all trials, one after the other.

    Args:
        original: The evaluation of the untouched model.
        target: Share forgotten at which layers are compared.
        sweep: See `PilotSettings`.
        margin: The same.
    """

    def __init__(
        self, original: Evaluation, target: float, sweep: bool = False, margin: float = 0.0
    ) -> None:
        super().__init__(original, target)
        self.sweep, self.margin = sweep, margin
        self.best: float | None = None  # utility at the target
        self.about: dict[str, Any] = {}

    def begin(self, experts: Experts) -> None:
        """Let what follows be the trials of some experts."""
        self.about = _names(experts)

    def add(self, *given: Any) -> float | None:
        """Log an evaluation, with the layer and the expert that were trained."""
        forgotten = super().add(*given)
        self.log[-1] = self.about | self.log[-1]
        return forgotten

    def stop(self, why: str, step_numbers: Mapping[str, float] | None = None) -> None:
        """Log why a trial ended."""
        super().stop(why, step_numbers)
        self.log[-1] = self.about | self.log[-1]

    def is_over(self, stop_at: float) -> str | None:
        """Return why a trial ends: its number is known, or is taken to be too low."""
        trial = _trials(self.log)[-1]
        utility = outcome(trial, self.target)["utility"]
        if self.sweep:
            tested = [share for row in trial if (share := row["test_forgotten"]) is not None]
            shown = max(tested, default=1.0) >= self.target - ROUNDING
            return "reached" if utility is not None and shown else super().is_over(stop_at)
        if utility is not None:
            self.best = utility if self.best is None else max(self.best, utility)
            return "reached"
        dominated = self.best is not None and self.log[-1]["utility"] < self.best - self.margin
        return "dominated" if dominated else None


def judge_layers(
    candidates: Sequence[Experts], trials: Sequence[Row], target: float
) -> tuple[list[dict[str, Any]], int]:
    """Return what the trials of each candidate came to, and which of these is the best."""
    layers = [summary(experts, trials, target) for experts in candidates]
    ranks = [rank_of_outcome(layer) for layer in layers]
    return layers, ranks.index(max(ranks))  # of equals the first


def summary(experts: Experts, log: Sequence[Row], target: float) -> dict[str, Any]:
    """Return what the trials of one candidate came to: the best of its learning rates."""
    names = _names(experts)
    trials = _trials(row for row in log if names.items() <= row.items())
    rates = [
        {"learning_rate": trial[0]["learning_rate"], **outcome(trial, target)} for trial in trials
    ]
    best = max(rates, key=rank_of_outcome)  # of equals the first
    return {
        "layer": names["layer"],
        "experts": [list(one) for one in experts],
        **best,
        "steps": sum(trial[-1]["step"] for trial in trials),
        "evaluations": sum(row["utility"] is not None for trial in trials for row in trial[1:]),
    }


def _trials(log: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each trial, which begins with the original."""
    trials: list[list[Row]] = []
    for row in log:
        if row["step"] == 0:
            trials.append([])
        trials[-1].append(row)
    return trials


def _names(experts: Experts) -> dict[str, Any]:
    """Return what tells a candidate in a table: its layer, and its expert or `3 5` for two."""
    one, *others = experts
    names = " ".join(str(expert) for _, expert in experts)
    return {"layer": one[0], "expert": names if others else one[1]}
