"""The project's pipelines: each is a part of a study, `__default__` is the study.

A study of spread is its pipeline `replication` and the headline; any other study is the sum of all
but `replication`. A node has the tag of its role, by which kedro-viz filters, and `kedro run
--tags`.
"""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline

# by the folder of the node's function; one that is not here is its own role
ROLES = {
    "data_preparation": "data",
    "preflight": "data",
    "base_model": "model",
    "routing_capture": "experts",
    "expert_selection": "experts",
    "layer_choice": "experts",
    "unlearning": "unlearning",
    "replication": "unlearning",
    "evaluation": "evaluation",
    "reporting": "report",
    "headline": "report",
}


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by name."""
    found = find_pipelines(raise_errors=True)
    pipelines = {name: _with_roles(pipeline) for name, pipeline in found.items()}
    replication = pipelines.get("replication", Pipeline([]))  # `--pipelines` may leave it out
    headline = pipelines.get("headline", Pipeline([]))
    others = sum((p for p in pipelines.values() if p is not replication), Pipeline([]))
    pipelines["__default__"] = replication + headline if replication.nodes else others
    return pipelines


def _with_roles(pipeline: Pipeline) -> Pipeline:
    folders = ((node, node.func.__module__.rpartition(".")[0]) for node in pipeline.nodes)
    names = ((node, folder.rpartition(".")[2]) for node, folder in folders)
    return Pipeline([node.tag(ROLES.get(name, name)) for node, name in names])
