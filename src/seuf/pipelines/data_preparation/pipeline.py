"""One node: the one that prepares the study's benchmark."""

from kedro.pipeline import Node, Pipeline

from seuf.benchmarks.registry import load_benchmark
from seuf.pipelines.data_preparation.nodes import preparation
from seuf.pipelines.study import study_parameters

SETS = ["forget_set", "retain_set", "questions", "pretraining_texts", "general_texts"]


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline of the study's benchmark."""
    parameters = study_parameters()["benchmark"]
    benchmark = load_benchmark(parameters["name"])
    settings = benchmark.settings.model_construct(**parameters)  # checked elsewhere, in full
    node = Node(
        preparation(benchmark),
        inputs={"settings": "params:benchmark", **benchmark.inputs(settings)},
        outputs=[*SETS, "passages"] if benchmark.has_passages else SETS,
        name="prepare_data",
    )
    return Pipeline([node])


def has_passages() -> bool:
    """Tell if the study's benchmark has passages for membership inference."""
    return load_benchmark(study_parameters()["benchmark"]["name"]).has_passages
