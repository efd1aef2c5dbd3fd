"""One namespaced node a method."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.study import in_one_box, methods, permission, study_parameters
from seuf.pipelines.unlearning.nodes import unlearn
from seuf.unlearning.settings import pilot_rule

SHARED = {
    "base_model",
    "forget_set",
    "retain_set",
    "questions",
    "general_texts",
}


def create_pipeline(**_: object) -> Pipeline:
    """Return the unlearning nodes of all methods."""
    return in_one_box(sum((_of(method) for method in methods()), Pipeline([])))


def _of(method: str) -> Pipeline:
    by_trial = pilot_rule(study_parameters()["methods"][method].get("selection"))
    node = Node(
        unlearn,
        inputs=[
            "base_model",
            "chosen_layer" if by_trial else "selected_experts",
            "forget_set",
            "retain_set",
            "questions",
            "general_texts",
            "params:method",
            "params:unlearning",
            "params:evaluation",
            "params:seed",
            *permission(),
        ],
        outputs=["delta", "training_log", "timing"],
        name="unlearn",
    )
    return Pipeline(
        [node],
        namespace=method,
        inputs={*SHARED, *permission(), *([] if by_trial else ["selected_experts"])},
        parameters={
            "params:method": f"params:methods.{method}",
            "params:unlearning": "params:unlearning",
            "params:evaluation": "params:evaluation",
            "params:seed": "params:seed",
        },
    )
