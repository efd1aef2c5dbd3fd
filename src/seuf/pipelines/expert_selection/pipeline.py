"""One node: every rule sees the same two routing tables."""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.expert_selection.nodes import select_experts


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline."""
    return Pipeline(
        [
            Node(
                select_experts,
                inputs=[
                    "routing_forget",
                    "routing_retain",
                    "params:expert_selection",
                    "params:base_seed",
                    "params:seed",
                ],
                outputs="selected_experts",
                name="select_experts",
            )
        ]
    )
