"""One node: the one that knows the study's benchmark."""

from collections.abc import Callable

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.data_preparation.nodes import prepare_own, prepare_sandbox, prepare_tofu
from seuf.pipelines.study import study_parameters

BENCHMARKS: dict[str, tuple[Callable[..., object], list[str]]] = {
    "sandbox": (prepare_sandbox, ["params:base_seed"]),
    "tofu": (
        prepare_tofu,
        ["tofu_forget", "tofu_forget_wrong", "tofu_retain", "tofu_retain_wrong"],
    ),
    "own": (prepare_own, ["own_forget", "own_retain", "own_questions"]),
}


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of the study's benchmark."""
    prepare, inputs = BENCHMARKS[study_parameters()["benchmark"]["name"]]
    return Pipeline(
        [
            Node(
                prepare,
                inputs=["params:benchmark", *inputs],
                outputs=["forget_set", "retain_set", "questions", "pretraining_texts"],
                name="prepare_data",
            )
        ]
    )
