"""Run every method with its learning rates and the first seed, or with chosen rates and others."""

from __future__ import annotations

import os
from functools import cache, partial, wraps
from typing import Any

import pandas as pd

from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel
from seuf.unlearning.selection import SelectionSettings
from seuf.unlearning.settings import (
    CONTROLS,
    Experts,
    Method,
    PilotSettings,
    UnlearningSettings,
    pilot_rule,
)

Records = list[dict[str, Any]]
TABLES = ("runs", "paths", "layer_paths")
WORKERS = "SEUF_WORKERS"  # processes that share the runs; no parameter, since it is the machine's


def run_methods(
    base_model: LanguageModel,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    general_texts: Records,
    base_seed: int,
    methods: dict[str, Any],
    expert_selection: SelectionSettings,
    unlearning: UnlearningSettings,
    pilot: PilotSettings,
    evaluation: ScoringSettings,
    seeds: list[int],
    chosen_learning_rates: dict[str, float] | None = None,
    every_seed: bool = False,
) -> dict[str, pd.DataFrame]:
    """Run every method: the grid with the first seed, or with chosen rates the other seeds.

    With the first seed of a study that sweeps there is a third table, with the paths of one expert
    of every layer.
    """
    from seuf.pipelines.expert_selection.nodes import routing_table, select_experts
    from seuf.pipelines.layer_choice.nodes import judge_by_selection
    from seuf.pipelines.unlearning.nodes import experts_of, judge_of
    from seuf.unlearning.algorithm import samples_of
    from seuf.unlearning.replication import BaseStudy, Trial, replicate, runs_of
    from seuf.unlearning.selection import best_of_layers, random_beside, seed_of_draw

    routing = routing_table(routing_forget), routing_table(routing_retain)
    has_first = every_seed or chosen_learning_rates is None
    seeds_here = seeds if every_seed else seeds[:1] if has_first else seeds[1:]

    @cache
    def selected(seed: int) -> dict[str, Any]:
        return select_experts(routing_forget, routing_retain, expert_selection, base_seed, seed)

    def experts_or_trial(method: Method, seed: int) -> Experts | Trial:
        rule = pilot_rule(method.selection)
        if rule is None:
            return experts_of(selected(seed), method)
        trained = candidates = best_of_layers(*routing, rule, expert_selection.top, pilot.every)
        if method.selection in CONTROLS:
            draw = seed_of_draw(base_seed, seed)
            trained = [random_beside(pairs, routing[0], draw).experts for pairs in candidates]
        sweep = {"sweep": pilot.sweeps(method.objective) and seed == seeds[0]}
        return Trial(method, seed, candidates, trained, pilot.model_copy(update=sweep))

    table = {name: Method.model_validate(row) for name, row in methods.items()}
    forget, retain = (
        samples_of(base_model, texts_of(records), unlearning, prompts_of(records))
        for records in (forget_set, retain_set)
    )
    study = BaseStudy(
        base_model,
        forget,
        retain,
        unlearning,
        make_judge=partial(judge_of, base_model, questions, general_texts, evaluation),
        make_trial_judge=partial(judge_by_selection, base_model, questions, evaluation),
    )
    runs = runs_of(table, seeds_here, experts_or_trial, chosen_learning_rates, untrained=has_first)
    tables = dict(zip(TABLES, replicate(study, runs, workers_asked_for()), strict=True))
    return tables if pilot.sweep and has_first else {name: tables[name] for name in TABLES[:2]}


@wraps(run_methods)
def run_every_seed(*given: Any) -> dict[str, pd.DataFrame]:
    """Run every method with its chosen learning rate and each seed, on a base without a grid."""
    return partial(run_methods, every_seed=True)(*given)


def workers_asked_for() -> int:
    """Return how many processes share the runs, 1 unless the environment says otherwise.

    Raises:
        InputError: If it is no positive number.
    """
    number = os.environ.get(WORKERS, "1")
    if not number.isdecimal() or int(number) < 1:
        raise InputError(f"{WORKERS} is {number!r}; it is a number of processes, 1 or more.")
    return int(number)
