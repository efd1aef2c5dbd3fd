"""The grid, the choice it leads to, the other seeds, and the table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.unlearning.selection import SelectionSettings
from seuf.unlearning.settings import Method, ReplicationSettings, UnlearningSettings

Records = list[dict[str, Any]]


def run_methods(
    base_model: LanguageModel,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    general_texts: Records,
    methods: dict[str, Any],
    expert_selection: SelectionSettings,
    unlearning: UnlearningSettings,
    evaluation: ScoringSettings,
    replication: ReplicationSettings,
    base_seed: int,
    chosen_learning_rates: dict[str, float] | None = None,
) -> pd.DataFrame:
    """Run every method: the grid with the first seed, or with chosen rates the other seeds."""
    from seuf.pipelines.expert_selection.nodes import select_experts
    from seuf.pipelines.unlearning.nodes import experts_of, judge_of
    from seuf.unlearning.algorithm import samples_of
    from seuf.unlearning.replication import replicate, runs_of

    def experts(method: Method, seed: int) -> list[tuple[int, int]]:
        selected = select_experts(routing_forget, routing_retain, expert_selection, base_seed, seed)
        return experts_of(selected, method)

    table = {name: Method.model_validate(row) for name, row in methods.items()}
    forget, retain = (
        samples_of(base_model, texts_of(records), unlearning, prompts_of(records))
        for records in (forget_set, retain_set)
    )
    return replicate(
        base_model,
        forget,
        retain,
        runs_of(table, replication, chosen_learning_rates),
        experts,
        unlearning,
        judge_of(base_model, questions, general_texts, evaluation),
    )


def choose_learning_rates(*grids: pd.DataFrame) -> dict[str, float]:
    """Choose each method's learning rate by its mean balance on the selection questions."""
    from seuf.unlearning.replication import choose_learning_rates

    return choose_learning_rates(pd.concat(grids))


def summarise_spread(
    replication: ReplicationSettings, chosen_learning_rates: dict[str, float], *runs: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """Tell each method's mean and spread over base models and seeds, at its learning rate."""
    from seuf.reporting import spread

    bases = list(replication.bases)
    named = [table.assign(base=bases[place % len(bases)]) for place, table in enumerate(runs)]
    table = spread.summarise(pd.concat(named), chosen_learning_rates)
    return table, spread.metrics(table), spread.markdown(table)
