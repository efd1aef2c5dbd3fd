"""The same methods again and again: one learning rate a method, then spread over seeds.

1. With the first seed, every method tries every learning rate of the grid on every base model.
2. A method's learning rate is the one with the best balance on the selection questions, averaged
   over base models. The test questions have no say.
3. With the other seeds, every method runs with that learning rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import Judge, unlearn
from seuf.unlearning.settings import Experts, Method, ReplicationSettings, UnlearningSettings


class Run(NamedTuple):
    """One run: a method of the table, with one learning rate, and a seed."""

    name: str
    method: Method
    seed: int


def runs_of(
    methods: dict[str, Method],
    settings: ReplicationSettings,
    chosen: dict[str, float] | None = None,
) -> list[Run]:
    """Return the runs of the grid with the first seed; with chosen rates, of the other seeds.

    A method that trains nothing runs once.
    """

    def at(method: Method, learning_rate: float) -> Method:
        return method.model_copy(update={"learning_rates": [learning_rate]})

    if chosen is None:
        return [
            Run(name, at(method, rate), settings.seeds[0])
            for name, method in methods.items()
            for rate in (settings.learning_rates if method.objective else method.learning_rates)
        ]
    return [
        Run(name, at(method, chosen[name]), seed)
        for seed in settings.seeds[1:]
        for name, method in methods.items()
        if method.objective
    ]


def replicate(
    base: LanguageModel,
    forget: Sequence[Sequence[int]],
    retain: Sequence[Sequence[int]],
    runs: Iterable[Run],
    experts_of: Callable[[Method, int], Experts],
    settings: UnlearningSettings,
    judge: Judge,
) -> pd.DataFrame:
    """Return one row a run: judged by selection and by test questions, and its seconds.

    Args:
        base: The base model.
        forget: Token ids of the samples to forget.
        retain: Token ids of the samples to keep.
        runs: See `runs_of`.
        experts_of: Returns the experts that a method trains, given a seed.
        settings: The budget.
        judge: Judges by the selection questions and tells of the test questions.
    """
    rows = []
    for name, method, seed in tqdm(list(runs), desc="runs", disable=None):
        start = time.perf_counter()
        experts = experts_of(method, seed)
        done = unlearn(base, forget, retain, method, experts, judge, settings, seed)
        seconds = time.perf_counter() - start
        with done.delta.applied_to(base.model) as model:
            evaluation = judge(model)
        rows.append(
            {
                "method": name,
                "seed": seed,
                "learning_rate": method.learning_rates[0],
                "experts": " ".join(f"{layer}:{expert}" for layer, expert in experts),
                "balance": evaluation.utility - evaluation.forget_efficacy,
                "forget_efficacy": evaluation.beside["test_forget_efficacy"],
                "utility": evaluation.beside["test_utility"],
                "trained_share": done.trained_share,
                "seconds": round(seconds, 2),
            }
        )
    return pd.DataFrame(rows)


def choose_learning_rates(grid_runs: pd.DataFrame) -> dict[str, float]:
    """Return each method's learning rate of best mean balance; of equals the smallest."""
    mean = grid_runs.groupby(["method", "learning_rate"], sort=True)["balance"].mean()
    best = mean.groupby("method", sort=True).idxmax()
    return {str(method): float(rate) for method, rate in best}
