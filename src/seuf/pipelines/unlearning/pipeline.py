"""One namespaced node a method."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.study import in_one_box, methods
from seuf.pipelines.unlearning.nodes import unlearn

SHARED = {
    "base_model",
    "selected_experts",
    "forget_set",
    "retain_set",
    "questions",
    "general_texts",
}


def create_pipeline(**_: object) -> Pipeline:
    """Return the unlearning nodes of all methods."""
    return in_one_box(sum((_of(method) for method in methods()), Pipeline([])))


def _of(method: str) -> Pipeline:
    node = Node(
        unlearn,
        inputs=[
            "base_model",
            "selected_experts",
            "forget_set",
            "retain_set",
            "questions",
            "general_texts",
            "params:method",
            "params:unlearning",
            "params:evaluation",
            "params:seed",
        ],
        outputs=["delta", "training_log", "timing"],
        name="unlearn",
    )
    return Pipeline(
        [node],
        namespace=method,
        inputs=SHARED,
        parameters={
            "params:method": f"params:methods.{method}",
            "params:unlearning": "params:unlearning",
            "params:evaluation": "params:evaluation",
            "params:seed": "params:seed",
        },
    )
