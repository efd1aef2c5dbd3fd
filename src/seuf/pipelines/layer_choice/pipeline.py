"""One namespaced node for each method whose layer is chosen by trial, and for its control."""

from collections.abc import Mapping
from typing import Any

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.layer_choice.nodes import choose_layer, draw_beside
from seuf.pipelines.study import in_one_box, is_sweep, permission, study_parameters
from seuf.unlearning.settings import Method, pilot_rule, pilots_of_controls

SHARED = {
    "base_model",
    "routing_forget",
    "routing_retain",
    "forget_set",
    "retain_set",
    "questions",
}
OF_SWEEP = {"general_texts"}
PARAMETERS = ["expert_selection", "unlearning", "pilot", "evaluation", "base_seed", "seed"]
CHOICE = ["chosen_layer", "trials", "trial_timing"]


def create_pipeline(**_: object) -> Pipeline:
    """Return the nodes that choose layers; without such a method an empty pipeline."""
    parameters = study_parameters()
    methods = parameters["methods"]

    def shared(method: str) -> set[str]:
        sweep = is_sweep(parameters, methods[method]["objective"])
        return {*SHARED, *permission(), *(OF_SWEEP if sweep else [])}

    chosen, pilots = Pipeline([]), _pilots_of_controls(methods)
    for method, row in methods.items():
        if method in pilots:
            chosen += _of_control(method, pilots[method])
        elif pilot_rule(row.get("selection")):
            chosen += _of(method, shared(method))
    return in_one_box(chosen)


def _pilots_of_controls(methods: Mapping[str, Any]) -> dict[str, str]:
    """Return the pilot of each random control, given the table as it stands in the parameters."""
    try:
        return pilots_of_controls({n: Method.model_validate(row) for n, row in methods.items()})
    except ValueError:
        return {}  # the check of the parameters, before anything runs, says what is wrong


def _of(method: str, shared: set[str]) -> Pipeline:
    names = [f"params:{name}" for name in PARAMETERS]
    node = Node(
        choose_layer,
        inputs={
            **{name: name for name in sorted(shared)},
            "method": "params:method",
            **dict(zip(PARAMETERS, names, strict=True)),
        },
        outputs=CHOICE,
        name="choose_layer",
    )
    return Pipeline(
        [node],
        namespace=method,
        inputs=shared,
        parameters={
            "params:method": f"params:methods.{method}",
            **{name: name for name in names},
        },
    )


def _of_control(method: str, pilot: str) -> Pipeline:
    seeds = {"base_seed": "params:base_seed", "seed": "params:seed"}
    taken = {name: f"{pilot}.{name}" for name in CHOICE}
    node = Node(
        draw_beside,
        inputs={**taken, "routing_forget": "routing_forget", **seeds},
        outputs=CHOICE,
        name="draw_beside",
    )
    return Pipeline(
        [node],
        namespace=method,
        inputs={"routing_forget", *taken.values()},
        parameters={name: name for name in seeds.values()},
    )
