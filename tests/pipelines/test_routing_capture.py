"""What the capture stage writes."""

from seuf.pipelines.expert_selection.nodes import select_experts
from seuf.pipelines.routing_capture.nodes import capture_routing
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.selection import SelectionSettings
from tests.tiny import tiny_language_model

TEXTS = [{"text": f"Ada lives in Oslo, Bo lives in Rome {i}."} for i in range(120)]
OTHERS = [{"text": f"Bo lives in Oslo; {i} {i}."} for i in range(150)]


def test_columns_that_a_rule_needs_are_there_when_they_are_asked_for():
    base = tiny_language_model()

    plain = capture_routing(base, TEXTS, OTHERS, RoutingSettings(), 0)
    more = capture_routing(base, TEXTS, OTHERS, RoutingSettings(columns=("gradient", "reap")), 0)

    for one, other in zip(plain, more, strict=True):
        assert [*other] == [*one, "gradient", "reap"]
        assert other[[*one]].equals(one)
        assert (other[["gradient", "reap"]] > 0).all(axis=None)
    rules = SelectionSettings(rules=["gradient", "reap"])
    assert select_experts(*more, rules, 0, 0).keys() == {"gradient", "reap"}
