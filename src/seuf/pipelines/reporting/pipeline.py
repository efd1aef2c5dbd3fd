"""Nodes for numbers, figures and the report."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.reporting.nodes import (
    compare_layers,
    compare_methods,
    draw_figures,
    write_report,
)
from seuf.pipelines.study import in_one_box, is_sweep, methods, permission, study_parameters

FIGURES = [
    "forgetting_paths",
    "general_loss",
    "attribution",
    "tokens_per_expert",
    "overlap_over_steps",
]
LAYERS = ["layers", "figure_layers", "layers_picture"]
PILOT = "pilot"  # the beginning of a selection that chooses by trials
SEEDS = {"base_seed": "params:base_seed", "seed": "params:seed"}


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline."""
    parameters = study_parameters()
    tried = [
        name
        for name, row in parameters["methods"].items()
        if str((row or {}).get("selection") or "").startswith(PILOT)
    ]
    swept = [
        name for name in tried if is_sweep(parameters, parameters["methods"][name]["objective"])
    ]
    of_layers = Node(
        compare_layers,
        inputs=_named("paths") | _of_methods(swept, "trials"),
        outputs=LAYERS,
        name="compare_layers",
    )
    figures = [*FIGURES, *(["trials_by_layer"] if tried else [])]
    drawn = {figure: f"figure_{figure}" for figure in figures}
    compare = Node(
        compare_methods,
        inputs=_of_methods(methods(), "scores", "training_log", "timing") | _reference() | SEEDS,
        outputs=["metrics", "comparison", "comparison_markdown", "paths", "examples"],
        name="compare_methods",
    )
    draw = Node(
        draw_figures,
        inputs=_named("comparison", "paths", "routing_forget", "routing_retain", "selected_experts")
        | _of_methods(tried, "trials"),
        outputs=drawn,
        name="draw_figures",
    )
    write = Node(
        write_report,
        inputs=_named("comparison", "paths", "selected_experts", "examples")
        | (_named("preflight") if permission() else {})
        | {"base_model": "params:base_model"}
        | SEEDS
        | drawn
        | ({"layers": "figure_layers"} if swept else {}),
        outputs="report",
        name="write_report",
    )
    # outside the box kedro-viz would draw each of the tables that these take of every method
    boxed = [compare, *([of_layers] if swept else [])]
    return in_one_box(Pipeline(boxed)) + Pipeline([draw, write])


def _of_methods(names: list[str], *kinds: str) -> dict[str, str]:
    return _named(*(f"{method}.{kind}" for method in names for kind in kinds))


def _reference() -> dict[str, str]:
    return _named("reference_scores") if study_parameters().get("reference_model") else {}


def _named(*names: str) -> dict[str, str]:
    """Return inputs that reach the node's function as keywords of the data sets' names."""
    return {name: name for name in names}
