"""One node: both sets pass the base model once."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.routing_capture.nodes import capture_routing


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                capture_routing,
                inputs=[
                    "base_model",
                    "forget_set",
                    "retain_set",
                    "params:routing_capture",
                    "params:seed",
                ],
                outputs=["routing_forget", "routing_retain"],
                name="capture_routing",
            )
        ]
    )
