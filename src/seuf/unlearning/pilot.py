"""The layer chosen by trial (`selection: pilot`), instead of by routing alone.

Affinities of different layers are hard to compare, and the choice of the layer matters more than
that of the expert in it. So the method itself trains each layer's best expert for a few steps, and
the layer is chosen whose model keeps most utility where `target` of the way to chance is forgotten,
on the selection questions (`seuf.forgetting`). `algorithm.unlearn` then spends the full budget
there.

1. Layers share passes: one pass over the samples gives the input of each of them, and likewise one
   pass over the questions and over the routing probe. A trial is equal to a run by itself, to the
   bit.
2. A trial ends when its result is known: at the first evaluation that reaches the target.
3. It ends when it is dominated: its utility is already more than `margin` below that of the best
   trial so far at the target. We take it that utility does not recover while more is forgotten.
4. If no trial reaches the target, the layer that forgets most is chosen.
5. A sweep (`PilotSettings.sweep`) measures what each layer keeps. Its judge reports the test
   questions too, no trial is dominated, and each goes on until the test questions have also reached
   the target, or until a run would end. Its choice differs from a pilot's only where a dominated
   trial would have recovered.
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
from seuf.unlearning.evaluations import Evaluation, EvaluationPath, Evaluator, Judge
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import is_steered
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.settings import Experts, Method, PilotSettings, UnlearningSettings

Row = dict[str, Any]  # an evaluation of a path, with the keys `evaluations.LOG_COLUMNS`


@dataclass(frozen=True)
class LayerChoice:
    """Which candidate was chosen, and the results of all.

    Attributes:
        experts: The experts of the chosen layer.
        layers: For each candidate, in the order of the trials, its `layer`, `experts`, best
            `learning_rate` and `forgetting.outcome` with that, `steps` and `evaluations`.
        trials: The paths of all trials: rows with the keys `evaluations.LOG_COLUMNS`, `layer`,
            `expert` and `chosen`.
        steps: Number of updates in all trials.
        evaluations: Number of evaluations in all trials, plus the original's.
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
    """Return which candidate a method should train; the base model is the same afterwards.

    Args:
        base: The original model.
        forget: Token ids of the samples to forget, see `algorithm.samples_of`.
        retain: Token ids of the samples to keep.
        candidates: The experts of each layer to try, see `selection.best_of_layers`; the likeliest
            first, so that later ones are given up sooner.
        method: A method of scope `experts`; its learning rates are tried unless the pilot has some.
        judge: Scores a model on the selection questions; what else it reports is only logged.
        settings: The budget of a whole run.
        pilot: The budget of a trial.
        seed: Decides the order of the samples, as in the run that follows.

    Raises:
        InputError: If there is no candidate, the method trains no experts, or `unlearn` would.
    """
    pilot = pilot or PilotSettings()
    settings = trial_settings(settings or UnlearningSettings(), pilot)
    if method.scope != "experts" or not candidates:
        raise InputError("A pilot needs a method of scope 'experts' and a layer to try it in.")
    check_samples(forget, retain)
    if pilot.learning_rates:
        method = method.model_copy(update={"learning_rates": pilot.learning_rates})
    firsts = sorted({min(layer for layer, _ in experts) for experts in candidates})
    with ExitStack() as stack:
        stack.callback(check_unchanged, base.model, model_digest(base.model))
        stack.enter_context(threads(settings.threads))
        evaluator = Evaluator(base, judge, forget, retain, settings, firsts)
        prefixes: dict[int, HiddenStates | None] = {first: None for first in firsts if first}
        sweep = pilot.sweeps(method.objective)
        path = TrialPath(evaluator.original(), pilot.target, sweep, pilot.margin)
        for experts in candidates:
            path.begin(experts)
            _try(base, forget, retain, method, experts, evaluator, settings, seed, prefixes, path)
    layers, best = judge_layers(candidates, path.log, pilot.target)
    names = _names(candidates[best]).items()
    return LayerChoice(
        experts=list(candidates[best]),
        layers=layers,
        trials=[row | {"chosen": names <= row.items()} for row in path.log],
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
    evaluator: Evaluator,
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
        evaluate = evaluator.of(scope)
        train(base, retain, passes, method, experts, evaluate, scope, original, settings, path)
        path.tensors = None  # of a trial only the numbers are kept


class TrialPath(EvaluationPath):
    """The evaluations of all trials, one after the other.

    Args:
        original: The evaluation of the untouched model.
        target: Share forgotten at which layers are compared.
        sweep: See `PilotSettings.sweep`.
        margin: See `PilotSettings.margin`.
    """

    def __init__(
        self, original: Evaluation, target: float, sweep: bool = False, margin: float = 0.0
    ) -> None:
        super().__init__(original, target)
        self.sweep, self.margin = sweep, margin
        self.best_utility: float | None = None  # at the target, of the trials so far
        self.names: dict[str, Any] = {}  # of the candidate on trial

    def begin(self, experts: Experts) -> None:
        """Begin the trials of a candidate."""
        self.names = _names(experts)

    def add(self, *evaluation: Any) -> float | None:
        """Log an evaluation, with the layer and the expert in training."""
        forgotten = super().add(*evaluation)
        self.log[-1] = self.names | self.log[-1]
        return forgotten

    def stop(self, why: str, step_numbers: Mapping[str, float] | None = None) -> None:
        """Log why a trial ended."""
        super().stop(why, step_numbers)
        self.log[-1] = self.names | self.log[-1]

    def is_over(self, stop_at: float) -> str | None:
        """Return why a trial ends, if it does: its result is known, or will be too low."""
        trial = _trials(self.log)[-1]
        utility = outcome(trial, self.target)["utility"]
        if self.sweep:
            tested = [share for row in trial if (share := row["test_forgotten"]) is not None]
            in_test_too = max(tested, default=1.0) >= self.target - ROUNDING
            return "reached" if utility is not None and in_test_too else super().is_over(stop_at)
        best = self.best_utility
        if utility is not None:
            self.best_utility = utility if best is None else max(best, utility)
            return "reached"
        dominated = best is not None and self.log[-1]["utility"] < best - self.margin
        return "dominated" if dominated else None


def judge_layers(
    candidates: Sequence[Experts], trials: Sequence[Row], target: float
) -> tuple[list[dict[str, Any]], int]:
    """Return the summary of each candidate's trials, and the index of the best candidate."""
    layers = [summary(experts, trials, target) for experts in candidates]
    ranks = [rank_of_outcome(layer) for layer in layers]
    return layers, ranks.index(max(ranks))  # of equals the first


def summary(experts: Experts, log: Sequence[Row], target: float) -> dict[str, Any]:
    """Return the outcome of one candidate with the best of its learning rates."""
    names = _names(experts)
    trials = _trials(row for row in log if names.items() <= row.items())
    rates = [
        {"learning_rate": trial[0]["learning_rate"], **outcome(trial, target)} for trial in trials
    ]
    best = max(rates, key=rank_of_outcome)  # of equals the first
    return {
        "layer": names["layer"],
        "experts": [list(pair) for pair in experts],
        **best,
        "steps": sum(trial[-1]["step"] for trial in trials),
        "evaluations": sum(row["utility"] is not None for trial in trials for row in trial[1:]),
    }


def _trials(log: Iterable[Row]) -> list[list[Row]]:
    """Return the rows of each trial; each begins with the original, at step 0."""
    trials: list[list[Row]] = []
    for row in log:
        if row["step"] == 0:
            trials.append([])
        trials[-1].append(row)
    return trials


def _names(experts: Experts) -> dict[str, Any]:
    """Return a candidate's columns in a table: its layer, and its expert or `3 5` for two."""
    (layer, expert), *others = experts
    names = " ".join(str(number) for _, number in experts)
    return {"layer": layer, "expert": names if others else expert}
