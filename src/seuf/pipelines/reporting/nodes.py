"""From every method's results to numbers, figures and the report.

Results come as keywords named like their data sets, `<method>.<what>`, in the order of the table
of methods.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

Figure = Any  # plotly.graph_objects.Figure; Kedro resolves hints, and other stages need no plotly


def compare_methods(**results: Any) -> tuple[dict[str, dict[str, float]], pd.DataFrame, str]:
    """Put every method's numbers beside each other, for DVC, for tools and for people."""
    from seuf.reporting.comparison import compare, comparison_table
    from seuf.reporting.tables import markdown

    metrics = compare(
        _by_method("scores", results),
        _by_method("training_log", results),
        _by_method("timing", results),
    )
    table = comparison_table(metrics)
    return metrics, table, markdown(table)


def draw_figures(
    comparison: pd.DataFrame,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    selected_experts: dict[str, Any],
    **logs: pd.DataFrame,
) -> tuple[Figure, Figure, Figure]:
    """Draw the paper's figures 1a, 2 and 3 from this study."""
    from seuf.reporting.efficacy_utility import efficacy_utility
    from seuf.reporting.overlap_over_steps import overlap_over_steps
    from seuf.reporting.tokens_per_expert import tokens_per_expert

    return (
        efficacy_utility(comparison),
        tokens_per_expert(routing_forget, routing_retain, selected_experts),
        overlap_over_steps(comparison, _by_method("training_log", logs)),
    )


def write_report(
    comparison: pd.DataFrame,
    selected_experts: dict[str, Any],
    figure_efficacy_utility: Figure,
    figure_tokens_per_expert: Figure,
    figure_overlap_over_steps: Figure,
) -> str:
    """Write the page that says what was forgotten and what is left."""
    from seuf.reporting.report import report

    figures = {
        "efficacy_utility": figure_efficacy_utility,
        "tokens_per_expert": figure_tokens_per_expert,
        "overlap_over_steps": figure_overlap_over_steps,
    }
    return report(comparison, figures, selected_experts)


def _by_method(what: str, results: dict[str, Any]) -> dict[str, Any]:
    parts = {name: name.rpartition(".") for name in results}
    return {method: results[name] for name, (method, _, kind) in parts.items() if kind == what}
