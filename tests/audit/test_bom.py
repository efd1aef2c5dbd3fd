"""What the bill of materials names, and that its standard accepts it."""

import json

import pytest

from seuf.audit.bom import bom
from tests.audit.reports import (
    BASE,
    DELTA,
    DELTA_PATH,
    FORGET,
    FORGET_MD5,
    FORGET_PATH,
    RETAIN,
    RETAIN_PATH,
    report,
)

MODEL = "machine-learning-model"


def complaint(text):
    """Return what the standard's schema does not accept of a text; its validator loads slowly."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


@pytest.fixture(scope="module")
def bill():
    """The bill of the example report."""
    return json.loads(bom(report()))


@pytest.fixture(scope="module")
def parts(bill):
    """Its components by name."""
    return {one["name"]: one for one in bill["components"]}


@pytest.fixture
def metrics_of():
    """A function that returns the metrics in the bill of a report with these scores."""

    def metrics(scores):
        card = json.loads(bom(report(scores=scores)))["metadata"]["component"]["modelCard"]
        found = card["quantitativeAnalysis"]["performanceMetrics"]
        return {one["slice"]: one for one in found}

    return metrics


@pytest.mark.parametrize("changes", [{}, {"runs": [], "scores": {}, "materials": []}])
def test_the_bill_keeps_to_cyclonedx(changes):
    text = bom(report(**changes))

    assert complaint(text) is None


def test_the_validator_would_notice_a_wrong_model_card(bill):
    wrong = json.loads(json.dumps(bill))
    wrong["metadata"]["component"]["modelCard"]["unknown"] = 1

    assert complaint(json.dumps(wrong)) is not None


def test_the_same_report_gives_the_same_bytes():
    assert bom(report()) == bom(report())


def test_serial_number_and_time_come_from_the_report(bill):
    other = json.loads(bom(report(delta=report()["delta"] | {"sha256": "00" * 32})))

    assert bill["metadata"]["timestamp"] == "2026-11-25T23:59:00+00:00"
    assert bill["serialNumber"] != other["serialNumber"]


def test_the_unlearned_model_and_its_base_are_models(bill, parts):
    model = bill["metadata"]["component"]

    assert (model["type"], model["name"]) == (MODEL, "org/base, after unlearning")
    assert parts["org/base"]["type"] == MODEL
    assert parts["org/base"]["properties"] == [{"name": "seuf:model_digest", "value": BASE}]
    assert parts[DELTA_PATH]["hashes"] == [{"alg": "SHA-256", "content": DELTA}]


def test_the_model_depends_on_all_parts(bill):
    depends = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}

    assert len(bill["components"]) == 7
    assert sorted(depends["model"]) == sorted(one["bom-ref"] for one in bill["components"])


def test_packages_are_libraries_with_their_address(parts):
    assert parts["torch"]["type"] == "library"
    assert parts["torch"]["purl"] == "pkg:pypi/torch@2.13.0"


def test_data_sets_have_their_hash_unless_they_are_confidential(parts):
    assert parts[RETAIN_PATH]["type"] == parts[FORGET_PATH]["type"] == "data"
    assert parts[RETAIN_PATH]["hashes"] == [{"alg": "SHA-256", "content": RETAIN}]
    assert "hashes" not in parts[FORGET_PATH]
    assert FORGET not in bom(report())
    assert FORGET_MD5 not in bom(report())
    assert "src/seuf/unlearning" not in parts


def test_scores_have_intervals_of_95_percent(bill):
    """0.5 ± 1.96 · 0.1 is 0.304 to 0.696; an error of 0 leaves the point."""
    card = bill["metadata"]["component"]["modelCard"]
    metrics = {one["slice"]: one for one in card["quantitativeAnalysis"]["performanceMetrics"]}

    after = metrics["forget questions, after unlearning"]
    assert (after["type"], after["value"]) == ("accuracy", "0.5")
    assert after["confidenceInterval"] == {"lowerBound": "0.304", "upperBound": "0.696"}
    before = metrics["forget questions, before unlearning"]
    assert before["confidenceInterval"] == {"lowerBound": "1", "upperBound": "1"}
    assert metrics["retain texts"]["value"] == "0.55"
    assert len(metrics) == 6


def test_an_interval_ends_at_0_and_1(metrics_of):
    """0.95 + 1.96 · 0.05 = 1.048 and 0.02 - 1.96 · 0.02 = -0.0192 are cut."""
    scores = report()["scores"]
    scores["forget"] |= {"before": 0.95, "before_error": 0.05, "after": 0.02, "after_error": 0.02}

    metrics = metrics_of(scores)

    before, after = (metrics[f"forget questions, {one} unlearning"] for one in ("before", "after"))
    assert before["confidenceInterval"] == {"lowerBound": "0.852", "upperBound": "1"}
    assert after["confidenceInterval"] == {"lowerBound": "0", "upperBound": "0.0592"}


def test_a_number_that_is_not_finite_is_not_stated(metrics_of):
    scores = report()["scores"] | {"chance": float("nan")}
    scores["forget"]["before_error"] = scores["retain"]["after"] = float("nan")

    made = metrics_of(scores)

    assert "nan" not in bom(report(scores=scores)).lower()
    assert "confidenceInterval" not in made["forget questions, before unlearning"]
    assert "retain questions, after unlearning" not in made


def test_a_score_that_is_not_known_is_no_metric():
    """Six metrics are full; without one score and one overlap four are left."""
    scores = report()["scores"]
    scores["forget"] |= {"before": None, "before_error": None}
    scores["routing_overlap"]["forget"] = None

    card = json.loads(bom(report(scores=scores)))["metadata"]["component"]["modelCard"]

    assert len(card["quantitativeAnalysis"]["performanceMetrics"]) == 4


def test_the_card_says_what_the_scores_do_not(bill):
    limits = bill["metadata"]["component"]["modelCard"]["considerations"]["technicalLimitations"]

    assert "not that the knowledge is gone" in limits[0]
    assert limits[-1] == "Guessing gives 0.25 on the forget questions."
