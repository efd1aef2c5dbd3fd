"""Turn every method's results into numbers, figures and the report.

Results are keyword arguments with the names of their data sets, `<method>.<what>`, in the order of
the methods table.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd

from seuf.pipelines.study import commit, study_name

REFERENCE = "retrained"
Figure = Any  # plotly.graph_objects.Figure; Kedro resolves hints, which would import plotly
Records = list[dict[str, Any]]


def compare_methods(
    base_seed: int, seed: int, **results: Any
) -> tuple[dict[str, dict[str, float]], pd.DataFrame, str, pd.DataFrame, Records]:
    """Put every method's numbers beside each other, for DVC, for tools and for people.

    If the study has a reference model, it is the last row. The paths of all methods are one table,
    and their example answers before and after unlearning another.
    """
    from seuf.reporting.comparison import compare, comparison_table, markdown, paths_of

    of_methods = _by_method("scores", results)
    logs, timings = (_by_method(kind, results) for kind in ("training_log", "timing"))
    scores = _with_reference(of_methods, results.get("reference_scores"))
    metrics = compare(scores, logs, timings)
    table = comparison_table(metrics, scores)
    examples = [
        {"method": method, **example}
        for method, scored in of_methods.items()
        for example in scored.get("examples", [])
        if scored["changed_tensors"]
    ]
    paths = paths_of(logs, scores, str(base_seed), seed)
    return metrics, table, markdown(table), paths, examples


def draw_figures(
    comparison: pd.DataFrame,
    paths: pd.DataFrame,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    selected_experts: dict[str, Any],
    **trials: pd.DataFrame,
) -> dict[str, Figure]:
    """Draw the methods' paths, how experts are used, and what a pilot tried, by figure's name."""
    from seuf.reporting import expert_figures, figures
    from seuf.reporting.comparison import layers_of, not_unlearned

    routing, tried = (routing_forget, routing_retain), _by_method("trials", trials)
    drawn = {
        "forgetting_paths": figures.forgetting_paths(paths, beside=not_unlearned(comparison)),
        "general_loss": figures.forgetting_paths(paths, figures.GENERAL_LOSS),
        "attribution": expert_figures.attribution(*routing, selected_experts),
        "tokens_per_expert": expert_figures.tokens_per_expert(*routing, selected_experts),
        "overlap_over_steps": figures.overlap_over_steps(paths),
    }
    if tried:
        drawn["trials_by_layer"] = expert_figures.trials_by_layer(tried, layers_of(paths))
    return drawn


def compare_layers(paths: pd.DataFrame, **trials: pd.DataFrame) -> tuple[pd.DataFrame, Figure, str]:
    """Tell what one expert of each layer keeps: as a table, a figure, and a picture."""
    from seuf.reporting import layer_figure

    return layer_figure.compare_layers(paths, list(trials.values()))


def write_report(
    comparison: pd.DataFrame,
    paths: pd.DataFrame,
    selected_experts: dict[str, Any],
    examples: Records,
    base_model: Any,
    base_seed: int,
    seed: int,
    preflight: dict[str, Any] | None = None,
    **figures: Figure,
) -> str:
    """Write the page that says what was forgotten and what is left."""
    from seuf.reporting.headline import differences_over_questions
    from seuf.reporting.report import About, report

    # settings in a run of the whole pipeline, a dict in a run of this node alone; a model that is
    # trained here has no path in either
    source = base_model if isinstance(base_model, dict) else vars(base_model)
    model = source.get("path") or f"a model trained here, seed {base_seed}"
    date = datetime.now(UTC).date().isoformat()
    about = About(study_name(), str(model), str(seed), commit(), date)
    told = differences_over_questions(paths)
    return report(about, paths, comparison, figures, selected_experts, examples, told, preflight)


def _with_reference(scores: dict[str, Any], reference: Any) -> dict[str, Any]:
    """Return the scores with the reference model's, and with measures that compare with it."""
    if reference is None:
        return scores
    from seuf.benchmarks.measures import beside

    with_reference = {**scores, REFERENCE: reference}
    return {
        method: {**scored, "measures": scored["measures"] | beside(scored, reference)}
        for method, scored in with_reference.items()
    }


def _by_method(kind: str, results: dict[str, Any]) -> dict[str, Any]:
    """Return the results of one kind, such as `scores`, by method."""
    parts = {name: name.rpartition(".") for name in results}
    return {method: results[name] for name, (method, _, last) in parts.items() if last == kind}
