"""The grid, the choice it leads to, the other seeds, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.unlearning.settings import (
    Method,
    ReplicationSettings,
    SelectionSettings,
    UnlearningSettings,
)

if TYPE_CHECKING:
    from seuf.unlearning.replication import Replicator

Records = list[dict[str, Any]]


def run_methods(
    base_model: LanguageModel,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    methods: dict[str, Any],
    expert_selection: SelectionSettings,
    unlearning: UnlearningSettings,
    evaluation: ScoringSettings,
    replication: ReplicationSettings,
    chosen_learning_rates: dict[str, float] | None = None,
) -> pd.DataFrame:
    """Run every method: the grid with the first seed, or with chosen rates the other seeds."""
    from seuf.unlearning.replication import tasks

    data = routing_forget, routing_retain, forget_set, retain_set, questions
    replicator = _replicator(base_model, data, (expert_selection, unlearning, evaluation))
    table = {name: Method.model_validate(row) for name, row in methods.items()}
    return replicator.run_all(tasks(table, replication, chosen_learning_rates))


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


def _replicator(
    base: LanguageModel, data: tuple[Any, ...], settings: tuple[Any, ...]
) -> Replicator:
    from seuf.pipelines.unlearning.nodes import judge_by
    from seuf.unlearning.algorithm import samples_of
    from seuf.unlearning.replication import Replicator

    routing_forget, routing_retain, forget, retain, questions = data
    selection, unlearning, evaluation = settings
    return Replicator(
        base=base,
        samples=samples_of(base, texts_of(forget), texts_of(retain), unlearning),
        experts=_experts_of(routing_forget, routing_retain, selection),
        settings=unlearning,
        select=judge_by("selection", base, questions, evaluation),
        test=judge_by("test", base, questions, evaluation),
    )


def _experts_of(forget: pd.DataFrame, retain: pd.DataFrame, settings: SelectionSettings) -> Any:
    from seuf.pipelines.expert_selection.nodes import select_experts
    from seuf.pipelines.unlearning.nodes import experts_of

    def experts(method: Method, seed: int) -> list[tuple[int, int]]:
        return experts_of(select_experts(forget, retain, settings, seed), method)

    return experts
