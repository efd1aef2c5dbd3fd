"""One node, in studies of one run a method and in studies of spread."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.headline.nodes import write_headline
from seuf.pipelines.study import study_parameters


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline."""
    metrics = "spread_metrics" if study_parameters().get("replication") else "metrics"
    return Pipeline(
        [Node(write_headline, inputs=metrics, outputs="headline", name="write_headline")]
    )
