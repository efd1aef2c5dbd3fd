"""One namespaced node a method, and one for the reference model where the study has one."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.data_preparation.pipeline import has_passages
from seuf.pipelines.evaluation.nodes import evaluate, score_reference
from seuf.pipelines.study import in_one_box, methods, study_parameters

SHARED = ["base_model", "forget_set", "retain_set", "questions"]


def create_pipeline(**_: object) -> Pipeline:
    """Return the evaluation nodes of all methods."""
    passages = ["passages"] if has_passages() else []
    of_methods = sum((_of_method(method, passages) for method in methods()), Pipeline([]))
    if not study_parameters().get("reference_model"):
        return in_one_box(of_methods)
    reference = Node(
        score_reference,
        inputs=["reference_model", "questions", "params:evaluation", *passages],
        outputs="reference_scores",
        name="score_reference",
    )
    return in_one_box(of_methods) + Pipeline([reference])


def _of_method(method: str, passages: list[str]) -> Pipeline:
    node = Node(
        evaluate,
        inputs=[
            "base_model",
            "delta",
            "forget_set",
            "retain_set",
            "questions",
            "params:evaluation",
            *passages,
        ],
        outputs="scores",
        name="evaluate",
    )
    return Pipeline(
        [node],
        namespace=method,
        inputs={*SHARED, *passages},
        parameters={"params:evaluation": "params:evaluation"},
    )
