"""One namespaced node a method."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.evaluation.nodes import evaluate
from seuf.pipelines.study import in_one_box, methods

SHARED = {"base_model", "forget_set", "retain_set", "questions"}


def create_pipeline(**_: object) -> Pipeline:
    """Return the evaluation nodes of all methods."""
    return in_one_box(sum((_of(method) for method in methods()), Pipeline([])))


def _of(method: str) -> Pipeline:
    node = Node(
        evaluate,
        inputs=[
            "base_model",
            "delta",
            "forget_set",
            "retain_set",
            "questions",
            "params:evaluation",
        ],
        outputs="scores",
        name="evaluate",
    )
    return Pipeline(
        [node],
        namespace=method,
        inputs=SHARED,
        parameters={"params:evaluation": "params:evaluation"},
    )
