"""The base model: trained here, taught here, or only looked at; and the one that never saw.

Where a study has a `reference_model`, it is made as the base model is, from the same texts but
those about what is to be forgotten: unlearning cannot do better than that.
"""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.base_model.nodes import (
    check_base_model,
    finetune_base_model,
    leave_out_forgotten,
    pretrain_base_model,
    pretrain_reference_model,
)
from seuf.pipelines.study import study_parameters

Sources = dict[str, tuple[Callable[..., object], list[str]]]

SOURCES: Sources = {
    "pretrain": (pretrain_base_model, ["pretraining_texts", "params:base_seed"]),
    "finetune": (finetune_base_model, ["pretraining_texts", "params:base_seed"]),
    "external": (check_base_model, []),
}
REFERENCE_SOURCES: Sources = {
    "pretrain": (pretrain_reference_model, ["reference_texts", "params:base_seed", "base_model"]),
    "finetune": (finetune_base_model, ["reference_texts", "params:base_seed"]),
    "external": (check_base_model, []),
}
ALIKE = "alike"


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of the study's kinds of models."""
    parameters = study_parameters()
    make, inputs = SOURCES[parameters["base_model"]["source"]]
    base = Node(
        make,
        inputs=["params:base_model", *inputs],
        outputs="base_model",
        name="make_base_model",
    )
    return Pipeline([base, *_reference(parameters)])


def _reference(parameters: dict[str, Any]) -> list[Node]:
    wanted = parameters.get("reference_model")
    if not wanted:
        return []
    settings = "params:base_model" if wanted == ALIKE else "params:reference_model"
    source = parameters[settings.removeprefix("params:")]["source"]
    make, inputs = REFERENCE_SOURCES[source]
    node = Node(
        make, inputs=[settings, *inputs], outputs="reference_model", name="make_reference_model"
    )
    return [*_texts(inputs), node]


def _texts(inputs: list[str]) -> list[Node]:
    if "reference_texts" not in inputs:
        return []
    return [
        Node(
            leave_out_forgotten,
            inputs=["pretraining_texts", "forget_set"],
            outputs="reference_texts",
            name="leave_out_forgotten",
        )
    ]
