"""The base pipelines once for every base model, then the grid, the choice and the other seeds."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines import data_preparation, routing_capture
from seuf.pipelines.base_model.pipeline import models_pipeline, sampling_pipeline
from seuf.pipelines.replication.nodes import run_methods
from seuf.pipelines.replication.summary import (
    choose_learning_rates,
    compare_layers,
    draw_paths,
    summarise_spread,
    write_spread_report,
)
from seuf.pipelines.study import is_sweep, study_parameters

OF_BASE = [
    "base_model",
    "routing_forget",
    "routing_retain",
    "forget_set",
    "retain_set",
    "questions",
    "general_texts",
    "params:base_seed",
]
SETTINGS = [
    "params:methods",
    "params:expert_selection",
    "params:unlearning",
    "params:pilot",
    "params:evaluation",
    "params:replication.seeds",  # comparisons may be stated anew without another run
]
FIGURES = {name: f"figure_{name}" for name in ("forgetting_paths", "general_loss")}
OF_GRID = {"runs": "grid_runs", "paths": "grid_paths"}
OF_OTHER_SEEDS = {"runs": "seed_runs", "paths": "seed_paths"}


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of a study of spread; of any other study an empty one."""
    parameters = study_parameters()
    replication = parameters.get("replication")
    if not replication:
        return Pipeline([])
    tables = [OF_GRID, OF_OTHER_SEEDS][: len(replication["seeds"])]
    return _pipeline(list(replication["bases"]), tables, is_sweep(parameters))


def _pipeline(bases: list[str], tables: list[dict[str, str]], swept: bool) -> Pipeline:
    choose = Node(
        choose_learning_rates,
        inputs=[f"{base}.grid_runs" for base in bases],
        outputs="chosen_learning_rates",
        name="choose_learning_rates",
    )
    summarise = Node(
        summarise_spread,
        inputs=[
            "params:replication",
            "chosen_learning_rates",
            *[f"{base}.{of[kind]}" for kind in OF_GRID for of in tables for base in bases],
        ],
        outputs=["runs", "paths", "spread", "comparisons", "spread_metrics", "spread_markdown"],
        name="summarise_spread",
    )
    draw = Node(draw_paths, inputs="paths", outputs=list(FIGURES.values()), name="draw_figures")
    write = Node(
        write_spread_report,
        inputs={name: name for name in ("paths", "spread", "comparisons")}
        | {"replication": "params:replication"}
        | FIGURES
        | ({"layers": "figure_layers"} if swept else {}),
        outputs="report",
        name="write_report",
    )
    of_layers = Node(
        compare_layers,
        inputs={"paths": "paths"} | {base: f"{base}.layer_paths" for base in bases},
        outputs=["layers", "figure_layers", "layers_picture"],
        name="compare_layers",
    )
    whole = Pipeline([choose, summarise, draw, write, *[of_layers] * swept])
    return sum((_of(base, tables, swept) for base in bases), whole + sampling_pipeline())


def _of(base: str, tables: list[dict[str, str]], swept: bool) -> Pipeline:
    grid = Node(
        run_methods,
        inputs=[*OF_BASE, *SETTINGS],
        outputs=OF_GRID | ({"layer_paths": "layer_paths"} if swept else {}),
        name="try_grid",
    )
    seeds = Node(
        run_methods,
        inputs=[*OF_BASE, *SETTINGS, "chosen_learning_rates"],
        outputs=OF_OTHER_SEEDS,
        name="run_other_seeds",
    )
    before = [
        data_preparation.create_pipeline(),
        models_pipeline(),
        routing_capture.create_pipeline(),
    ]
    of_base = sum(before, Pipeline([grid, seeds][: len(tables)]))
    shared = [
        *SETTINGS,
        "params:benchmark",
        "params:base_model",
        "params:routing_capture",
        "params:seed",
    ]
    return Pipeline(
        of_base,
        namespace=base,
        inputs={name for name in of_base.inputs() if not name.startswith("params:")},
        parameters={
            "params:base_seed": f"params:replication.bases.{base}",
            **{name: name for name in shared},
        },
    )
