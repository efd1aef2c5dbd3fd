"""Choose learning rates, and summarise the runs of a study of spread.

These functions are not in `nodes.py`, so that an edit here runs no method again.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from seuf.pipelines.study import commit, study_name
from seuf.unlearning.settings import ReplicationSettings

log = logging.getLogger(__name__)


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
    replication: ReplicationSettings,
    chosen_learning_rates: dict[str, float],
    **tables: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any], str]:
    """Tell each method at equal forgetting, and the differences that the study was made for."""
    from seuf.reporting import spread

    runs, paths = (
        spread.merged({name: table for name, table in tables.items() if name.endswith(kind)})
        for kind in ("_runs", "_paths")
    )
    paths = spread.tidy_paths(paths, chosen_learning_rates)
    summary = spread.summarise(
        runs, paths, chosen_learning_rates, replication.comparisons, replication.compare_at
    )
    return runs, paths, *summary, spread.metrics(summary.methods), spread.markdown(summary)


def draw_paths(paths: pd.DataFrame) -> tuple[Any, Any]:
    """Draw the paths of a study of spread: utility and general loss against forgetting."""
    from seuf.reporting.figures import GENERAL_LOSS, forgetting_paths

    return forgetting_paths(paths), forgetting_paths(paths, GENERAL_LOSS)


def compare_layers(paths: pd.DataFrame, **of_bases: pd.DataFrame) -> tuple[pd.DataFrame, Any, str]:
    """Tell what one expert of each layer keeps: as a table, a figure, and a picture."""
    from seuf.reporting import layer_figure

    named = [table.assign(base=base) for base, table in of_bases.items()]
    return layer_figure.compare_layers(paths, named)


def write_spread_report(
    paths: pd.DataFrame,
    spread: pd.DataFrame,
    comparisons: pd.DataFrame,
    replication: ReplicationSettings,
    **figures: Any,
) -> str:
    """Write the page of a study of spread."""
    from seuf.reporting.headline import differences_over_bases
    from seuf.reporting.report import About, spread_report
    from seuf.reporting.spread import Spread, notes, readable_comparisons, readable_methods

    tables = {"The methods": (*readable_methods(spread), notes(Spread(spread, comparisons)))}
    if len(comparisons):
        tables["The comparisons stated beforehand"] = (*readable_comparisons(comparisons), [])
    models = f"{len(replication.bases)} base models trained here"
    seeds = ", ".join(map(str, replication.seeds))
    about = About(study_name(), models, seeds, commit(), datetime.now(UTC).date().isoformat())
    return spread_report(about, paths, figures, tables, differences_over_bases(comparisons, paths))
