"""One namespaced node for each method whose layer is chosen by trial."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.layer_choice.nodes import choose_layer
from seuf.pipelines.study import in_one_box, is_sweep, permission, study_parameters
from seuf.unlearning.settings import pilot_rule

SHARED = {
    "base_model",
    "routing_forget",
    "routing_retain",
    "forget_set",
    "retain_set",
    "questions",
}
TOLD_BESIDE = {"general_texts"}  # of a sweep
PARAMETERS = ["expert_selection", "unlearning", "pilot", "evaluation", "base_seed", "seed"]


def create_pipeline(**_: object) -> Pipeline:
    """Return the nodes that choose layers; without such a method an empty pipeline."""
    parameters = study_parameters()
    methods = parameters["methods"]

    def shared(method: str) -> set[str]:
        sweep = is_sweep(parameters, methods[method]["objective"])
        return {*SHARED, *permission(), *(TOLD_BESIDE if sweep else [])}

    piloted = [name for name, row in methods.items() if pilot_rule(row.get("selection"))]
    return in_one_box(sum((_of(method, shared(method)) for method in piloted), Pipeline([])))


def _of(method: str, shared: set[str]) -> Pipeline:
    names = [f"params:{name}" for name in PARAMETERS]
    node = Node(
        choose_layer,
        inputs={
            **{name: name for name in sorted(shared)},
            "method": "params:method",
            **dict(zip(PARAMETERS, names, strict=True)),
        },
        outputs=["chosen_layer", "trials", "trial_timing"],
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
