"""Nodes that make the base model, and the reference model that never saw the forget set.

A study's `reference_model` is made like the base model, from the same texts without those about
what is to be forgotten: unlearning cannot do better than that.
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
    sample_dense_model,
    upcycle_base_model,
)
from seuf.pipelines.study import study_parameters

Sources = dict[str, tuple[Callable[..., object], list[str]]]

SOURCES: Sources = {
    "pretrain": (pretrain_base_model, ["pretraining_texts", "params:base_seed"]),
    "finetune": (finetune_base_model, ["pretraining_texts", "params:base_seed"]),
    "upcycle": (
        upcycle_base_model,
        ["pretraining_texts", "retain_set", "sampled_texts", "params:base_seed"],
    ),
    "external": (check_base_model, []),
}
REFERENCE_SOURCES: Sources = {
    "pretrain": (pretrain_reference_model, ["reference_texts", "params:base_seed", "base_model"]),
    "finetune": (finetune_base_model, ["reference_texts", "params:base_seed"]),
    "upcycle": (
        upcycle_base_model,
        ["reference_texts", "retain_set", "sampled_texts", "params:base_seed"],
    ),
    "external": (check_base_model, []),
}
SAMPLED = ["sampled_texts", "sampled_apart"]


def sampling_pipeline() -> Pipeline:
    """Return the node that samples texts from the dense model, if the base model is upcycled.

    The texts are the same for all base models of a study of spread.
    """
    if study_parameters()["base_model"]["source"] != "upcycle":
        return Pipeline([])
    sample = Node(
        sample_dense_model,
        inputs=["params:base_model"],
        outputs=SAMPLED,
        name="sample_dense_model",
    )
    return Pipeline([sample])


def create_pipeline(**_: object) -> Pipeline:
    """Return the nodes that make the models of the study."""
    return sampling_pipeline() + models_pipeline()


def models_pipeline() -> Pipeline:
    """Return the nodes that make the models, without the one that samples a dense model."""
    parameters = study_parameters()
    make, inputs = SOURCES[parameters["base_model"]["source"]]
    base = Node(
        make,
        inputs=["params:base_model", *inputs, *_questions(parameters["base_model"])],
        outputs="base_model",
        name="make_base_model",
    )
    reference = parameters.get("reference_model")
    if not reference:
        return Pipeline([base])
    settings = "base_model" if reference == "alike" else "reference_model"
    make, inputs = REFERENCE_SOURCES[parameters[settings]["source"]]
    texts = Node(
        leave_out_forgotten,
        inputs=["pretraining_texts", "forget_set"],
        outputs="reference_texts",
        name="leave_out_forgotten",
    )
    model = Node(
        make,
        inputs=[f"params:{settings}", *inputs, *_questions(parameters[settings])],
        outputs="reference_model",
        name="make_reference_model",
    )
    return Pipeline([base, *([texts] if "reference_texts" in inputs else []), model])


def _questions(settings: dict[str, Any]) -> list[str]:
    """Return the questions as an input if the model must know something, else nothing."""
    return [] if settings.get("must_know") is None else ["questions"]
