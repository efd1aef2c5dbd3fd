"""The grid, the choice it leads to, the other seeds, and the tables."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import pandas as pd

from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel
from seuf.pipelines.study import commit, study_name
from seuf.unlearning.rankings import RANDOM_IN
from seuf.unlearning.selection import SelectionSettings
from seuf.unlearning.settings import (
    Experts,
    Method,
    PilotSettings,
    ReplicationSettings,
    UnlearningSettings,
    pilot_rule,
)

log = logging.getLogger(__name__)
Records = list[dict[str, Any]]
WORKERS = "SEUF_WORKERS"  # processes that share the runs: of the machine, so it is no parameter


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
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run every method: the grid with the first seed, or with chosen rates the other seeds."""
    from seuf.pipelines.expert_selection.nodes import routing_table, select_experts
    from seuf.pipelines.layer_choice.nodes import judge_by_selection
    from seuf.pipelines.unlearning.nodes import experts_of, judge_of
    from seuf.unlearning.algorithm import samples_of
    from seuf.unlearning.replication import BaseStudy, Trial, replicate, runs_of
    from seuf.unlearning.selection import best_of_layers, random_beside, seed_of_draw

    routing = routing_table(routing_forget), routing_table(routing_retain)

    @cache
    def selected(seed: int) -> dict[str, Any]:
        return select_experts(routing_forget, routing_retain, expert_selection, base_seed, seed)

    def experts(method: Method, seed: int) -> Experts | Trial:
        rule = pilot_rule(method.selection)
        if rule is None:
            return experts_of(selected(seed), method)
        trained = tried = best_of_layers(*routing, rule, expert_selection.top, pilot.every)
        if str(method.selection).startswith(RANDOM_IN):
            draw = seed_of_draw(base_seed, seed)
            trained = [random_beside(one, routing[0], draw).experts for one in tried]
        return Trial(method, seed, tried, trained, pilot)

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
    runs = runs_of(table, seeds, experts, chosen_learning_rates)
    return replicate(study, runs, workers_asked_for())


def workers_asked_for() -> int:
    """Return how many processes share the runs, 1 unless the environment says otherwise.

    Raises:
        InputError: If it is no positive number.
    """
    asked = os.environ.get(WORKERS, "1")
    if not asked.isdecimal() or int(asked) < 1:
        raise InputError(f"{WORKERS} is {asked!r}; it is a number of processes, 1 or more.")
    return int(asked)


def choose_learning_rates(*grid_runs: pd.DataFrame) -> dict[str, float]:
    """Choose each method's learning rate by the selection questions, over all base models."""
    from seuf.reporting.spread import methods_at_edge
    from seuf.unlearning.replication import choose_learning_rates

    runs = pd.concat(grid_runs)
    chosen = choose_learning_rates(runs)
    if at_edge := methods_at_edge(runs, chosen):
        log.warning("Widen learning_rates: the best is at the edge for %s.", ", ".join(at_edge))
    return chosen


def summarise_spread(
    replication: ReplicationSettings, chosen_learning_rates: dict[str, float], *tables: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any], str]:
    """Tell each method at equal forgetting, and the differences that the study was made for."""
    from seuf.reporting import spread

    bases, half = list(replication.bases), len(tables) // 2
    runs, paths = (spread.merged(part, bases) for part in (tables[:half], tables[half:]))
    paths = spread.tidy_paths(paths, chosen_learning_rates)
    found = spread.summarise(
        runs, paths, chosen_learning_rates, replication.comparisons, replication.compare_at
    )
    return runs, paths, *found, spread.metrics(found.methods), spread.markdown(found)


def draw_paths(paths: pd.DataFrame) -> tuple[Any, Any]:
    """Draw the paths of a study of spread: utility and general loss against forgetting."""
    from seuf.reporting.figures import GENERAL_LOSS, forgetting_paths

    return forgetting_paths(paths), forgetting_paths(paths, GENERAL_LOSS)


def write_spread_report(
    paths: pd.DataFrame,
    spread: pd.DataFrame,
    comparisons: pd.DataFrame,
    replication: ReplicationSettings,
    **figures: Any,
) -> str:
    """Write the page of a study of spread."""
    from seuf.reporting.headline import told_by_bases
    from seuf.reporting.report import About, spread_report
    from seuf.reporting.spread import Spread, notes, readable_comparisons, readable_methods

    tables = {"The methods": (*readable_methods(spread), notes(Spread(spread, comparisons)))}
    if len(comparisons):
        tables["The comparisons stated beforehand"] = (*readable_comparisons(comparisons), [])
    models = f"{len(replication.bases)} base models trained here"
    seeds = ", ".join(map(str, replication.seeds))
    about = About(study_name(), models, seeds, commit(), datetime.now(UTC).date().isoformat())
    return spread_report(about, paths, figures, tables, told_by_bases(comparisons, paths))
