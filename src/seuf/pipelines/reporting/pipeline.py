"""Three nodes: numbers, figures, report."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.reporting.nodes import compare_methods, draw_figures, write_report
from seuf.pipelines.study import in_one_box, methods, study_parameters

FIGURES = [
    "figure_efficacy_utility",
    "figure_tokens_per_expert",
    "figure_overlap_over_steps",
]


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline; its first two nodes take something of every method."""
    compare = Node(
        compare_methods,
        inputs=_of_every_method("scores", "training_log", "timing") | _reference(),
        outputs=["metrics", "comparison", "comparison_markdown"],
        name="compare_methods",
    )
    draw = Node(
        draw_figures,
        inputs=_named("comparison", "routing_forget", "routing_retain", "selected_experts")
        | _of_every_method("training_log"),
        outputs=FIGURES,
        name="draw_figures",
    )
    write = Node(
        write_report,
        inputs=["comparison", "selected_experts", *FIGURES],
        outputs="report",
        name="write_report",
    )
    return in_one_box(Pipeline([compare, draw])) + Pipeline([write])


def _of_every_method(*kinds: str) -> dict[str, str]:
    return _named(*(f"{method}.{kind}" for method in methods() for kind in kinds))


def _reference() -> dict[str, str]:
    return _named("reference_scores") if study_parameters().get("reference_model") else {}


def _named(*names: str) -> dict[str, str]:
    """Return inputs that reach the node's function as keywords of the data sets' names."""
    return {name: name for name in names}
