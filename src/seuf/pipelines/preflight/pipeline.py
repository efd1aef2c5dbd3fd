"""One node, of a study that has the parameters `preflight`.

Its second output says no more than that the study may begin, and all that trains takes it: nothing
begins before, and nothing is trained again because more is told.
"""

from kedro.pipeline import Node, Pipeline

from seuf.pipelines.preflight.nodes import preflight
from seuf.pipelines.study import permission

INPUTS = [
    "base_model",
    "forget_set",
    "retain_set",
    "questions",
    "general_texts",
    "selected_experts",
    "params:routing_capture",
    "params:unlearning",
    "params:evaluation",
    "params:preflight",
]


def create_pipeline(**_: object) -> Pipeline:
    """Return the pipeline; an empty one of a study that asks for none."""
    if not permission():
        return Pipeline([])
    outputs = ["preflight", *permission()]
    return Pipeline([Node(preflight, inputs=INPUTS, outputs=outputs, name="preflight")])
