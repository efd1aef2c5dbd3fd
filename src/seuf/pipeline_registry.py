"""The project's pipelines: each is a part of a study, `__default__` is the study.

A study of spread is its pipeline `replication` and the headline; any other study is the sum of all
but `replication`.
"""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by name."""
    pipelines = find_pipelines(raise_errors=True)
    replication = pipelines.get("replication", Pipeline([]))  # `--pipelines` may leave it out
    headline = pipelines.get("headline", Pipeline([]))
    others = sum((p for p in pipelines.values() if p is not replication), Pipeline([]))
    pipelines["__default__"] = replication + headline if replication.nodes else others
    return pipelines
