"""Replicate methods: choose a learning rate for each, then measure the spread over seeds.

1. With the first seed, every method tries each learning rate of its row on every base model, or
   on the first ones (`replication.grid_bases`).
2. A method's learning rate is chosen on the selection questions, by the same rule for all: the one
   with which most base models forget `forget_target`, and among equals the one of most utility
   there. The test questions play no part.
3. With the other seeds, and on the other base models, every method runs with that learning rate.
4. A pilot (`seuf.unlearning.pilot`) tries its layers anew for each base model and seed, with the
   middle learning rate of its row unless the study names others. A run's seconds include its
   trials.

Two methods that differ only in their selection rule are computed once where both rules choose the
same experts. Several processes may share the runs, each with its own copy of the base model; their
number changes no result (`workers`).
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from seuf.forgetting import at_targets, outcome
from seuf.inputs import InputError
from seuf.moe.digests import sums_of_bits
from seuf.moe.forward import is_offloaded
from seuf.moe.loading import LanguageModel
from seuf.moe.threads import threads
from seuf.unlearning.algorithm import unlearn
from seuf.unlearning.evaluations import LOG_COLUMNS, UNMOVED, EvaluationPath, Judge
from seuf.unlearning.pilot import choose_layer
from seuf.unlearning.settings import (
    Experts,
    Method,
    PilotSettings,
    UnlearningSettings,
    pilot_rule,
    pilots_of_controls,
)
from seuf.unlearning.workers import shared, visible_gpus, workers

Log = list[dict[str, Any]]  # with the keys `evaluations.LOG_COLUMNS`
LAYER_COLUMNS = [
    *("seed", "method", "objective", "rule"),
    *("layer", "expert", "chosen", *LOG_COLUMNS),
]
# What the kept checkpoint scores on the test questions, by names of `evaluations.LOG_COLUMNS`.
KEPT = {
    "forget_efficacy": "test_forget_efficacy",
    "utility": "test_utility",
    "retain": "test_retain",
    "general_loss": "general_loss",
}


class Trial(NamedTuple):
    """The trials by which a pilot finds its experts, one with the best experts of each layer.

    Attributes:
        method: The method, with the learning rate of its trials.
        seed: Seed of the trials and of the run that follows.
        candidates: Experts of each layer, see `selection.best_of_layers`.
        trained: For each candidate, the experts to train if it wins: the candidate itself, or a
            random control in its layer.
        pilot: The budget of a trial.
    """

    method: Method
    seed: int
    candidates: list[Experts]
    trained: list[Experts]
    pilot: PilotSettings

    @property
    def key(self) -> Hashable:
        """Equal for trials that are computed once, such as those of a pilot and its control."""
        pilot = self.pilot.model_dump_json()
        return _without_selection(self.method), self.seed, str(self.candidates), pilot


class TrialResult(NamedTuple):
    """The result of a `Trial`.

    Attributes:
        winner: Index of the candidate that won.
        utility: Utility of each layer where it forgets enough, as `0:0.61 1:-`.
        steps: Updates of all candidates together.
        seconds: Seconds of all candidates together.
        paths: The paths of all candidates if it is a sweep, see `pilot.LayerChoice`; else empty.
    """

    winner: int
    utility: str | None
    steps: int
    seconds: float
    paths: Sequence[dict[str, Any]] = ()


NO_TRIAL = TrialResult(0, None, 0, 0.0)


class Run(NamedTuple):
    """One run: a method of the table with one learning rate, its experts, and a seed."""

    name: str
    method: Method
    experts: Experts
    seed: int
    trial: Trial | None = None

    @property
    def key(self) -> Hashable:
        """Equal for runs that are computed once."""
        return _without_selection(self.method), tuple(self.experts), self.seed


class RunResult(NamedTuple):
    """The result of a `Run`."""

    log: Log
    trained_share: float
    seconds: float


class BaseStudy(NamedTuple):
    """What all runs on one base model share. It can be pickled.

    Attributes:
        base: The base model.
        forget: Token ids of the samples to forget, see `algorithm.samples_of`.
        retain: Token ids of the samples to keep.
        settings: The budget.
        make_judge: Returns a judge by the selection questions that also reports the test questions.
        make_trial_judge: Returns a judge by the selection questions alone.
    """

    base: LanguageModel
    forget: Sequence[Sequence[int]]
    retain: Sequence[Sequence[int]]
    settings: UnlearningSettings
    make_judge: Callable[[], Judge]
    make_trial_judge: Callable[[], Judge]


def runs_of(
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    experts_of: Callable[[Method, int], Experts | Trial],
    chosen: Mapping[str, float] | None = None,
    untrained: bool = True,
) -> list[Run]:
    """Return the runs of all methods with each seed: all their learning rates, or chosen ones.

    Args:
        methods: The table.
        seeds: Seeds of these runs.
        experts_of: Returns the experts that a method trains with a seed, or the trial that finds
            them. It gets the method with its middle learning rate alone, and the random control of
            a pilot with the pilot's middle rate, so that both have the same trials.
        chosen: A learning rate for each method that trains; by default all of each row are tried.
        untrained: Whether methods that train nothing run too, once.
    """
    runs, pilots = [], pilots_of_controls(methods)
    for seed in seeds:
        for name, method in methods.items():
            if method.objective is None and not (untrained and seed == seeds[0]):
                continue
            of_trials = sorted(methods[pilots.get(name, name)].learning_rates)
            found = experts_of(_at(method, of_trials[(len(of_trials) - 1) // 2]), seed)
            trial = found if isinstance(found, Trial) else None
            experts = [] if isinstance(found, Trial) else found
            rates = method.learning_rates
            if chosen is not None:
                rates = [chosen.get(name, min(rates))]
            runs += [Run(name, _at(method, rate), experts, seed, trial) for rate in rates]
    return runs


def replicate(
    study: BaseStudy, runs: Sequence[Run], processes: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return three tables: a row a run, a row an evaluation, and a row an evaluation of a sweep.

    The last has the columns `LAYER_COLUMNS`; trials that several methods share stand under the
    first of them.

    Args:
        study: What the runs share.
        runs: See `runs_of`.
        processes: How many processes share the runs.
    """
    with computing(study, processes) as compute:
        trials = {run.trial.key: run.trial for run in runs if run.trial is not None}
        trial_results = dict(zip(trials, compute(list(trials.values()), "trials"), strict=True))
        runs = [
            run
            if (trial := run.trial) is None
            else run._replace(experts=trial.trained[trial_results[trial.key].winner])
            for run in runs
        ]
        first: dict[Hashable, Run] = {}
        for run in runs:
            first.setdefault(run.key, run)
        results = dict(zip(first, compute(list(first.values()), "runs"), strict=True))
    rows, paths, of_layers = [], [], dict[Hashable, Log]()
    for run in runs:
        computed, (log, share, seconds) = first[run.key], results[run.key]
        by_trial = trial_results[run.trial.key] if run.trial is not None else NO_TRIAL
        about = _about(run)
        rows.append(
            {
                **about,
                **numbers_of(log, study.settings.forget_target),
                "trained_share": share,
                "seconds": round(seconds + by_trial.seconds, 2),
                "trial_seconds": round(by_trial.seconds, 2),
                "trial_steps": by_trial.steps,
                "trial_utility": by_trial.utility,
                "same_as": computed.name if computed is not run else None,
            }
        )
        paths += [about | entry | {"learning_rate": about["learning_rate"]} for entry in log]
        if run.trial is not None:
            trial_of = {**about, "rule": pilot_rule(run.method.selection)}
            key = run.trial.key, trial_of["rule"]  # rules may agree in every layer
            of_layers.setdefault(key, [trial_of | entry for entry in by_trial.paths])
    swept = [entry for entries in of_layers.values() for entry in entries]
    return pd.DataFrame(rows), pd.DataFrame(paths), pd.DataFrame(swept, columns=LAYER_COLUMNS)


def numbers_of(log: Log, forget_target: float) -> dict[str, Any]:
    """Return a run's numbers on the test questions: along its path, and of its kept checkpoint.

    Args:
        log: The evaluations of one learning rate, the original first.
        forget_target: Share forgotten at which learning rates are compared, on the selection
            questions.
    """
    tested = [row for row in log if None not in (row["forgotten"], row["test_forgotten"])]
    shares, utility, losses = (
        [row[column] for row in tested]
        for column in ("test_forgotten", "test_utility", "general_loss")
    )
    kept = next((row for row in log if row["kept"]), log[0])
    selected = outcome(log, forget_target)
    return {
        **at_targets(shares, utility, None if None in losses else losses),
        **{name: kept[column] for name, column in KEPT.items()},
        "selection_utility": selected["utility"],
        "selection_forgotten": selected["forgotten"],
        "reached": selected["utility"] is not None,
    }


def choose_learning_rates(grid_runs: pd.DataFrame) -> dict[str, float]:
    """Return each method's learning rate, chosen as point 2 above says; of equals the smallest.

    Where no base model forgets enough with any rate, the one that forgets most on average.

    Args:
        grid_runs: The first table of `replicate` for the grid, of all base models together.
    """

    def rank(runs: pd.DataFrame) -> tuple[int, float]:
        reached = int(runs["reached"].sum())
        compared = runs["selection_utility" if reached else "selection_forgotten"]
        return reached, round(float(compared.mean()), 9)

    chosen: dict[str, float] = {}
    trained = grid_runs[grid_runs["learning_rate"].notna()]
    for method in sorted(trained["method"].unique()):
        runs = trained[trained["method"] == method]
        rates = sorted(map(float, runs["learning_rate"].unique()))
        ranks = [rank(runs[runs["learning_rate"] == rate]) for rate in rates]
        chosen[method] = rates[ranks.index(max(ranks))]
    return chosen


class Worker:
    """Computes trials and runs on one base model, one after the other.

    Args:
        study: What all of them share.
    """

    def __init__(self, study: BaseStudy) -> None:
        self.study = study

    @cached_property
    def judge(self) -> Judge:
        """The judge of the runs."""
        return self._remembering(self.study.make_judge())

    @cached_property
    def trial_judge(self) -> Judge:
        """The judge of the trials."""
        return self._remembering(self.study.make_trial_judge())

    def _remembering(self, judge: Judge) -> Judge:
        """Return the judge, evaluating the original only once.

        Every run begins with the original, and evaluations take most of a short run's time.
        """
        model = self.study.base.model
        with threads(self.study.settings.threads):
            of_original, original = judge(model), sums_of_bits(model)
        return lambda now: of_original if sums_of_bits(now) == original else judge(now)

    def compute(self, task: Run | Trial) -> RunResult | TrialResult:
        """Return the result of a run or a trial."""
        return self.run(task) if isinstance(task, Run) else self.try_layers(task)

    def run(self, run: Run) -> RunResult:
        """Return the result of a run."""
        base, forget, retain, settings, *_ = self.study
        judge, start = self.judge, time.perf_counter()
        if run.method.scope == "nothing":
            path = EvaluationPath(judge(base.model), settings.forget_target)
            path.add({"step": 0}, path.original, UNMOVED)
            return RunResult(path.log, 0.0, time.perf_counter() - start)
        result = unlearn(base, forget, retain, run.method, run.experts, judge, settings, run.seed)
        return RunResult(result.log, result.trained_share, time.perf_counter() - start)

    def try_layers(self, trial: Trial) -> TrialResult:
        """Return which candidate of a trial wins."""
        base, forget, retain, settings, *_ = self.study
        method, seed, candidates, _, pilot = trial
        judge = self.judge if pilot.sweep else self.trial_judge
        start = time.perf_counter()
        choice = choose_layer(
            base, forget, retain, candidates, method, judge, settings, pilot, seed
        )
        utilities = (
            f"{layer['layer']}:{'-' if (value := layer['utility']) is None else f'{value:.3f}'}"
            for layer in sorted(choice.layers, key=lambda layer: layer["layer"])
        )
        winner, seconds = candidates.index(choice.experts), time.perf_counter() - start
        paths = choice.trials if pilot.sweep else ()
        return TrialResult(winner, " ".join(utilities), choice.steps, seconds, paths)


Compute = Callable[[Sequence[Run | Trial], str], Iterable[Any]]


@contextmanager
def computing(study: BaseStudy, number: int) -> Iterator[Compute]:
    """Yield a function that computes tasks in their order, here or in several processes.

    Each of several processes has a copy of the base model; if that is on a GPU, the processes take
    the GPUs in turn, see `workers`.

    Raises:
        InputError: If several processes are asked for and the model is on several devices.
    """
    if number == 1:
        worker = Worker(study)
        yield lambda tasks, what: tqdm(map(worker.compute, tasks), what, len(tasks), disable=None)
        return
    model: Any = study.base.model
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1 or is_offloaded(model):
        raise InputError(
            "Several processes (SEUF_WORKERS) need a model that is on one device; this one is on "
            f"{', '.join(sorted(map(str, devices)))}."
        )
    device, on_gpu = model.device, model.device.type == "cuda"
    model.to("cpu")  # one GPU's tensors are not those of another
    if on_gpu:
        torch.cuda.empty_cache()
    try:
        # as bytes: tensors sent as such would be shared, and each process writes to them
        sent = pickle.dumps((study, on_gpu))
        with workers(_begin, sent, number, visible_gpus() if on_gpu else ()) as processes:
            yield lambda tasks, what: shared(processes, tasks, what, _name)
    finally:
        model.to(device)


def _begin(sent: bytes) -> Callable[[Run | Trial], RunResult | TrialResult]:
    """Return the function that computes tasks in a process with its own base model."""
    study, on_gpu = pickle.loads(sent)
    if on_gpu:
        study.base.model.to("cuda")
    return Worker(study).compute


def _name(task: Run | Trial) -> str:
    """Return the name of a task, for errors."""
    method = task.method
    name = task.name if isinstance(task, Run) else f"the trial of {method.selection}"
    return f"{name} (seed {task.seed}, learning rates {method.learning_rates})"


def _at(method: Method, learning_rate: float) -> Method:
    return method.model_copy(update={"learning_rates": [learning_rate]})


def _without_selection(method: Method) -> str:
    """Return a method's settings but its selection, as JSON."""
    return method.model_copy(update={"selection": None}).model_dump_json()


def _about(run: Run) -> dict[str, Any]:
    method = run.method
    return {
        "seed": run.seed,
        "method": run.name,
        "objective": method.objective,
        "scope": method.scope,
        "selection": method.selection,
        "experts": " ".join(f"{layer}:{expert}" for layer, expert in run.experts),
        "learning_rate": method.learning_rates[0] if method.objective else None,
    }
