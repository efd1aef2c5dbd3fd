"""One node, in studies with the parameters `preflight`.

Its second output says only that the study may begin, and all nodes that train take it: they wait
for the preflight, but do not run again when its report changes.
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
    """Return the pipeline; without preflight parameters an empty one."""
    if not permission():
        return Pipeline([])
    outputs = ["preflight", *permission()]
    return Pipeline([Node(preflight, inputs=INPUTS, outputs=outputs, name="preflight")])
