"""The same methods again and again: one learning rate a method, then spread over seeds.

1. With the first seed, every method tries every learning rate of the grid on every base model.
2. A method's learning rate is the one with the best balance on the selection questions, averaged
   over base models. The test questions have no say.
3. With the other seeds, every method runs with that learning rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from tqdm import tqdm

from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import JudgeModel, Treatment, unlearn
from seuf.unlearning.draws import Samples
from seuf.unlearning.scopes import Experts
from seuf.unlearning.settings import Method, ReplicationSettings, UnlearningSettings

Record = dict[str, object]
Task = tuple[str, Method, int]


@dataclass(frozen=True)
class Replicator:
    """What the runs on one base model share.

    Attributes:
        base: The base model.
        samples: Token ids of the two sets.
        experts: Returns the experts that a method treats, given its selection and a seed.
        settings: The budget.
        select: Judges by the selection questions.
        test: Judges by the test questions.
    """

    base: LanguageModel
    samples: Samples
    experts: Callable[[Method, int], Experts]
    settings: UnlearningSettings
    select: JudgeModel
    test: JudgeModel

    def run_all(self, tasks: list[Task]) -> pd.DataFrame:
        """Return one row a task (method name, method with one learning rate, seed)."""
        progress = tqdm(tasks, desc="runs", disable=None)
        return pd.DataFrame([self.run(*task) for task in progress])

    def run(self, name: str, method: Method, seed: int) -> Record:
        """Return how a method did: judged by selection and by test questions, and its seconds."""
        start = time.perf_counter()
        experts = self.experts(method, seed)
        treatment = Treatment(self.samples, experts, method, self.settings, seed)
        done = unlearn(self.base, treatment, self.select)
        seconds = time.perf_counter() - start
        with done.delta.applied_to(self.base.model) as model:
            selection, test = self.select(model), self.test(model)
        return {
            "method": name,
            "seed": seed,
            "learning_rate": method.learning_rates[0],
            "experts": " ".join(f"{layer}:{expert}" for layer, expert in experts),
            "balance": selection.balance,
            "forget_efficacy": test.forget_efficacy,
            "utility": test.utility,
            "trained_share": done.trained_share,
            "seconds": round(seconds, 2),
        }


def tasks(
    methods: dict[str, Method],
    settings: ReplicationSettings,
    chosen: dict[str, float] | None,
) -> list[Task]:
    """Return the runs of the grid with the first seed; with chosen rates, of the other seeds."""
    if chosen is None:
        return grid_tasks(methods, settings.learning_rates, settings.seeds[0])
    return list(seed_tasks(methods, chosen, settings.seeds[1:]))


def grid_tasks(methods: dict[str, Method], grid: list[float], seed: int) -> list[Task]:
    """Return the runs that try every learning rate for every method that trains."""
    return [
        (name, _at(method, rate), seed)
        for name, method in methods.items()
        for rate in (grid if method.objective else method.learning_rates)
    ]


def seed_tasks(
    methods: dict[str, Method], chosen: dict[str, float], seeds: list[int]
) -> Iterator[Task]:
    """Yield the runs of every method with its chosen learning rate."""
    for seed in seeds:
        for name, method in methods.items():
            if method.objective:
                yield name, _at(method, chosen[name]), seed


def choose_learning_rates(grid_runs: pd.DataFrame) -> dict[str, float]:
    """Return each method's learning rate of best mean balance; of equals the smallest."""
    mean = grid_runs.groupby(["method", "learning_rate"], sort=True)["balance"].mean()
    best = mean.groupby("method", sort=True).idxmax()
    return {str(method): float(rate) for method, rate in best}


def _at(method: Method, learning_rate: float) -> Method:
    return method.model_copy(update={"learning_rates": [learning_rate]})
