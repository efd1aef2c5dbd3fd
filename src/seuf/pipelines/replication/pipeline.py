"""The base pipelines once for every base model, then the grid, the choice and the other seeds."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines import data_preparation, routing_capture
from seuf.pipelines.base_model.pipeline import models_pipeline, sampling_pipeline
from seuf.pipelines.replication.nodes import run_every_seed, run_methods
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
    "params:replication.seeds",  # not all of it: other comparisons need no new runs
]
FIGURES = {name: f"figure_{name}" for name in ("forgetting_paths", "general_loss")}
Outputs = dict[str, str]  # data sets by the name of the table that a node returns
OF_GRID = {"runs": "grid_runs", "paths": "grid_paths"}
OF_OTHER_SEEDS = {"runs": "seed_runs", "paths": "seed_paths"}


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of a study of spread; of any other study an empty one."""
    parameters = study_parameters()
    replication = parameters.get("replication")
    if not replication:
        return Pipeline([])
    bases, seeds = list(replication["bases"]), replication["seeds"]
    on_grid = bases[: replication.get("grid_bases")]
    tables = {
        base: [OF_GRID, OF_OTHER_SEEDS][: len(seeds)] if base in on_grid else [OF_OTHER_SEEDS]
        for base in bases
    }
    return _pipeline(tables, is_sweep(parameters))


def _pipeline(tables: dict[str, list[Outputs]], swept: bool) -> Pipeline:
    """Return the pipeline, given which tables each base has: of its grid, of its other runs."""
    bases, on_grid = list(tables), [base for base, of_base in tables.items() if OF_GRID in of_base]
    names = [
        f"{base}.{outputs[kind]}"
        for kind in OF_GRID
        for outputs in (OF_GRID, OF_OTHER_SEEDS)
        for base in bases
        if outputs in tables[base]
    ]
    choose = Node(
        choose_learning_rates,
        inputs=[f"{base}.grid_runs" for base in on_grid],
        outputs="chosen_learning_rates",
        name="choose_learning_rates",
    )
    summarise = Node(
        summarise_spread,
        inputs={name: name for name in ["chosen_learning_rates", *names]}
        | {"replication": "params:replication"},
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
    return sum((_of(base, tables[base], swept) for base in bases), whole + sampling_pipeline())


def _of(base: str, tables: list[Outputs], swept: bool) -> Pipeline:
    of_layers = {"layer_paths": "layer_paths"} if swept else {}
    grid = Node(
        run_methods,
        inputs=[*OF_BASE, *SETTINGS],
        outputs=OF_GRID | of_layers,
        name="try_grid",
    )
    # its name differs from that of the node of other bases, which writes no layers
    sweeps = swept and OF_GRID not in tables
    others = Node(
        run_methods if OF_GRID in tables else run_every_seed,
        inputs=[*OF_BASE, *SETTINGS, "chosen_learning_rates"],
        outputs=OF_OTHER_SEEDS | of_layers if sweeps else OF_OTHER_SEEDS,
        name="run_every_seed" if sweeps else "run_other_seeds",
    )
    before = [
        data_preparation.create_pipeline(),
        models_pipeline(),
        routing_capture.create_pipeline(),
    ]
    runs = [grid] * (OF_GRID in tables) + [others] * (OF_OTHER_SEEDS in tables)
    of_base = sum(before, Pipeline(runs))
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
