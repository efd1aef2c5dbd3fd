"""The one row of a study that `dvc metrics show` prints."""

import pytest

from seuf.pipelines.headline import pipeline
from seuf.pipelines.headline.nodes import write_headline

METRICS = {
    "original": {"forget_efficacy": 0.9, "utility": 0.95, "trained_share": 0.0},
    "full_ga": {"utility_at_75": 0.7, "trained_share": 1.0},
    "full_npo": {"utility_at_75": 0.8, "trained_share": 1.0},
    "seuf_ga": {"utility_at_75": 0.6, "trained_share": 0.03},
    "random_ga": {"trained_share": 0.03},
}


def test_a_study_is_five_numbers():
    """Of everything the higher of .7 and .8; of a part .6, as the other did not get there."""
    assert write_headline(METRICS) == {
        "FE_original": 0.9,
        "UT_original": 0.95,
        "UT75_everything": 0.8,
        "UT75_part": 0.6,
        "methods": 4,
    }


def test_what_no_method_reaches_is_left_out():
    assert write_headline({"original": METRICS["original"], "a": METRICS["random_ga"]}) == {
        "FE_original": 0.9,
        "UT_original": 0.95,
        "methods": 1,
    }


@pytest.mark.parametrize(
    ("replication", "read"), [({}, "metrics"), ({"seeds": 2}, "spread_metrics")]
)
def test_a_study_of_spread_has_one_too(replication, read, monkeypatch):
    monkeypatch.setattr(pipeline, "study_parameters", lambda: {"replication": replication})

    assert [node.inputs for node in pipeline.create_pipeline().nodes] == [[read]]
