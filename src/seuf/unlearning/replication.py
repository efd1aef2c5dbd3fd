"""The same methods again and again: one learning rate a method, then spread over seeds.

1. With the first seed, every method tries each learning rate of its row on every base model.
2. A method's learning rate is chosen on the selection questions, by the same rule for all: the one
   with which most base models forget `forget_target`, and of those the one of most utility there.
   The test questions have no say.
3. With the other seeds, every method runs with that learning rate.

Two methods whose rules choose the same expert are one run where all else is the same too: it is
computed once. On a CPU several processes may share the runs; a run does not depend on them.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from seuf.forgetting import TARGETS, mean_until, value_at
from seuf.moe.digests import sums_of_bits
from seuf.moe.loading import LanguageModel
from seuf.moe.threads import threads
from seuf.unlearning.algorithm import unlearn
from seuf.unlearning.evaluations import UNMOVED, Evaluation, EvaluationPath, Judge
from seuf.unlearning.settings import Experts, Method, UnlearningSettings

Log = list[dict[str, Any]]  # with the keys `evaluations.LOG_COLUMNS`
# What the kept checkpoint scores on the test questions, by names of `evaluations.LOG_COLUMNS`.
KEPT = {
    "forget_efficacy": "test_forget_efficacy",
    "utility": "test_utility",
    "retain": "test_retain",
    "general_loss": "general_loss",
}


class Run(NamedTuple):
    """One run: a method of the table with one learning rate, its experts, and a seed."""

    name: str
    method: Method
    experts: Experts
    seed: int

    @property
    def identity(self) -> Hashable:
        """What makes the run: of two runs with the same, one is the other."""
        by_another_rule = self.method.model_copy(update={"selection": None})
        return by_another_rule.model_dump_json(), tuple(self.experts), self.seed


class BaseStudy(NamedTuple):
    """What all runs on one base model share; it can be sent to another process.

    Attributes:
        base: The base model.
        forget: Token ids of the samples to forget, see `algorithm.samples_of`.
        retain: Token ids of the samples to keep.
        settings: The budget.
        make_judge: Returns what judges by the selection questions and tells of the test questions.
    """

    base: LanguageModel
    forget: Sequence[Sequence[int]]
    retain: Sequence[Sequence[int]]
    settings: UnlearningSettings
    make_judge: Callable[[], Judge]


class Done(NamedTuple):
    """What a run came to."""

    log: Log
    trained_share: float
    seconds: float


def runs_of(
    methods: Mapping[str, Method],
    seeds: Sequence[int],
    experts_of: Callable[[Method, int], Experts],
    chosen: Mapping[str, float] | None = None,
) -> list[Run]:
    """Return the runs of the grid with the first seed; with chosen rates, of the other seeds.

    A method that trains nothing runs once.

    Args:
        methods: The table.
        seeds: Of the study; the first tries the grid.
        experts_of: Returns the experts that a method of one learning rate trains, given a seed.
        chosen: A learning rate for each method that trains.
    """
    rows = {name: row for name, row in methods.items() if row.objective or chosen is None}

    def run_of(name: str, method: Method, rate: float, seed: int) -> Run:
        at_rate = method.model_copy(update={"learning_rates": [rate]})
        return Run(name, at_rate, experts_of(at_rate, seed), seed)

    return [
        run_of(name, method, rate, seed)
        for seed in (seeds[:1] if chosen is None else seeds[1:])
        for name, method in rows.items()
        for rate in (method.learning_rates if chosen is None else [chosen[name]])
    ]


def replicate(
    study: BaseStudy, runs: Sequence[Run], workers: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row a run, and one row an evaluation of a run: its path.

    Args:
        study: What the runs share.
        runs: See `runs_of`.
        workers: Processes that share them.
    """
    first: dict[Hashable, Run] = {}
    for run in runs:
        first.setdefault(run.identity, run)
    computed = _in_processes if workers > 1 else _one_by_one
    results = computed(study, list(first.values()), workers)
    shown = tqdm(results, desc="runs", total=len(first), disable=None)
    done = dict(zip(first, shown, strict=True))
    rows, paths = [], []
    for run in runs:
        twin, (log, share, seconds) = first[run.identity], done[run.identity]
        about = _about(run)
        rows.append(
            {
                **about,
                **numbers_of(log, study.settings.forget_target),
                "trained_share": share,
                "seconds": round(seconds, 2),
                "same_as": twin.name if twin is not run else None,
            }
        )
        paths += [about | entry for entry in log]
    return pd.DataFrame(rows), pd.DataFrame(paths)


def numbers_of(log: Log, forget_target: float) -> dict[str, Any]:
    """Return a run's numbers: on the test questions along its path and where it was kept.

    Args:
        log: Of one learning rate, the original first.
        forget_target: Share forgotten at which learning rates are compared, on the selection
            questions.
    """
    path = [row for row in log if row["forgotten"] is not None]
    tested = [row for row in path if row["test_forgotten"] is not None]
    shares = [row["test_forgotten"] for row in tested]
    numbers: dict[str, Any] = {}
    for name, column in (("utility", "test_utility"), ("general_loss", "general_loss")):
        values = [row[column] for row in tested]
        known = values and None not in values
        for target in TARGETS:
            at = value_at(shares, values, target) if known else None
            numbers[f"{name}_at_{100 * target:g}"] = at
    numbers["area"] = mean_until(shares, [row["test_utility"] for row in tested])
    kept = next((row for row in log if row["kept"]), log[0])
    numbers |= {name: kept[column] for name, column in KEPT.items()}
    selected = [row["forgotten"] for row in path], [row["utility"] for row in path]
    numbers["selection_utility"] = value_at(*selected, forget_target)
    numbers["selection_forgotten"] = max(selected[0], default=None)
    numbers["reached"] = numbers["selection_utility"] is not None
    return numbers


def choose_learning_rates(grid_runs: pd.DataFrame) -> dict[str, float]:
    """Return each method's learning rate, see the top of this file; of equals the smallest.

    Where no base model forgets enough with any of them, the one that forgets most on average.

    Args:
        grid_runs: What `replicate` returned for the grid, of all base models.
    """

    def rank(runs: pd.DataFrame) -> tuple[int, float]:
        reached = int(runs["reached"].sum())
        compared = runs["selection_utility" if reached else "selection_forgotten"]
        return reached, round(float(compared.mean()), 9)

    chosen: dict[str, float] = {}
    trained = grid_runs[grid_runs["learning_rate"].notna()]
    for method in sorted(trained["method"].unique()):
        of_method = trained[trained["method"] == method]
        rates = sorted(map(float, of_method["learning_rate"].unique()))
        ranks = [rank(of_method[of_method["learning_rate"] == rate]) for rate in rates]
        chosen[method] = rates[ranks.index(max(ranks))]
    return chosen


def judge_of_runs(study: BaseStudy) -> Judge:
    """Return the study's judge, which evaluates the original but once.

    Every run begins with it, and a short run's time is mostly that of its evaluations.
    """
    judge = study.make_judge()
    with threads(study.settings.threads):
        evaluation, original = judge(study.base.model), sums_of_bits(study.base.model)

    def evaluate(model: nn.Module) -> Evaluation:
        return evaluation if sums_of_bits(model) == original else judge(model)

    return evaluate


def _one_by_one(study: BaseStudy, runs: Sequence[Run], workers: int = 1) -> Iterator[Done]:
    """Yield what each run comes to, in their order."""
    judge = judge_of_runs(study)
    return (_computed(study, judge, run) for run in runs)


def _in_processes(study: BaseStudy, runs: Sequence[Run], workers: int) -> Iterator[Done]:
    """Yield the same, computed by several processes."""
    sent = pickle.dumps(study)  # as bytes: tensors sent as such would be shared, and each writes
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (sent,)) as pool:
        yield from pool.map(_in_worker, runs)


_of_worker: dict[str, Any] = {}


def _begin(sent: bytes) -> None:
    """Make a worker ready: a base model of its own, one thread, no bars."""
    study: BaseStudy = pickle.loads(sent)
    sys.stderr.isatty = lambda: False  # type: ignore[method-assign] # so tqdm shows no bars
    torch.set_num_threads(1)
    _of_worker.update(study=study, judge=judge_of_runs(study))


def _in_worker(run: Run) -> Done:
    return _computed(_of_worker["study"], _of_worker["judge"], run)


def _computed(study: BaseStudy, judge: Judge, run: Run) -> Done:
    base, forget, retain, settings, _ = study
    start = time.perf_counter()
    if run.method.objective is None:
        path = EvaluationPath(judge(base.model), settings.forget_target)
        path.add({"step": 0}, path.original, UNMOVED)
        return Done(path.log, 0.0, time.perf_counter() - start)
    done = unlearn(base, forget, retain, run.method, run.experts, judge, settings, run.seed)
    return Done(done.log, done.trained_share, time.perf_counter() - start)


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
