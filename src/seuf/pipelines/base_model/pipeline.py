"""One node: pretraining, or a look at a model that exists."""

from collections.abc import Callable

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.base_model.nodes import check_base_model, pretrain_base_model
from seuf.pipelines.study import study_parameters

SOURCES: dict[str, tuple[Callable[..., object], list[str]]] = {
    "pretrain": (pretrain_base_model, ["pretraining_texts", "params:base_seed"]),
    "external": (check_base_model, []),
}


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of the study's kind of base model."""
    make, inputs = SOURCES[study_parameters()["base_model"]["source"]]
    return Pipeline(
        [
            Node(
                make,
                inputs=["params:base_model", *inputs],
                outputs="base_model",
                name="make_base_model",
            )
        ]
    )
