"""From every method's results to numbers, figures and the report.

Results come as keywords named like their data sets, `<method>.<what>`, in the order of the table
of methods.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

REFERENCE = "retrained"
Figure = Any  # plotly.graph_objects.Figure; Kedro resolves hints, and other stages need no plotly


def compare_methods(**results: Any) -> tuple[dict[str, dict[str, float]], pd.DataFrame, str]:
    """Put every method's numbers beside each other, for DVC, for tools and for people.

    Where the study has a model that never saw what is to be forgotten, it is the last row.
    """
    from seuf.reporting.comparison import compare, comparison_table, markdown

    scores = _beside_reference(_by_method("scores", results), results.get("reference_scores"))
    logs, timings = (_by_method(what, results) for what in ("training_log", "timing"))
    metrics = compare(scores, logs, timings)
    table = comparison_table(metrics, scores)
    return metrics, table, markdown(table)


def draw_figures(
    comparison: pd.DataFrame,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    selected_experts: dict[str, Any],
    **logs: pd.DataFrame,
) -> tuple[Figure, Figure, Figure]:
    """Draw the paper's figures 1a, 2 and 3 from this study."""
    from seuf.reporting.figures import efficacy_utility, overlap_over_steps, tokens_per_expert

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


def _beside_reference(scores: dict[str, Any], reference: Any) -> dict[str, Any]:
    """Return the scores with what can only be told beside the reference model's, and its own."""
    if reference is None:
        return scores
    from seuf.benchmarks.measures import beside

    with_reference = {**scores, REFERENCE: reference}
    return {
        method: {**scored, "measures": scored["measures"] | beside(scored, reference)}
        for method, scored in with_reference.items()
    }


def _by_method(what: str, results: dict[str, Any]) -> dict[str, Any]:
    parts = {name: name.rpartition(".") for name in results}
    return {method: results[name] for name, (method, _, kind) in parts.items() if kind == what}
