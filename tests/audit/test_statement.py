"""What the in-toto statement says, and what it must not."""

import json

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement_pb2 import Statement

from seuf.audit.attest import statement, validated
from seuf.inputs import InputError
from tests.audit.reports import (
    BASE,
    COMMIT,
    DELTA,
    DELTA_PATH,
    ENVIRONMENT,
    FORGET,
    FORGET_MD5,
    FORGET_PATH,
    RETAIN,
    RETAIN_PATH,
    SALTED,
    report,
)


def dependencies(made):
    """Return the resolved dependencies by name."""
    found = made["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {one["name"]: one for one in found}


def test_the_statement_is_what_the_library_reads_back():
    made = statement(report())

    assert MessageToDict(ParseDict(made, Statement())) == made
    assert MessageToDict(ParseDict(made["predicate"], Provenance())) == made["predicate"]


def test_the_subject_is_the_delta():
    made = statement(report())

    assert made["subject"] == [{"name": DELTA_PATH, "digest": {"sha256": DELTA}}]
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"


def test_the_base_model_the_commit_and_the_files_are_dependencies():
    found = dependencies(statement(report()))

    assert found["base_model"]["digest"] == {"sha256": BASE}
    assert "not of a file" in found["base_model"]["annotations"]["digestOf"]
    assert found["code"]["digest"] == {"gitCommit": COMMIT}
    assert found[RETAIN_PATH]["digest"] == {"sha256": RETAIN, "md5": "1a" * 16}
    assert found["data/01_raw/gone.json"]["digest"] == {"md5": "2b" * 16}


def test_a_confidential_file_appears_by_name_alone():
    made = statement(report())

    assert "digest" not in dependencies(made)[FORGET_PATH]
    assert FORGET not in json.dumps(made)
    assert FORGET_MD5 not in json.dumps(made)


def test_the_salted_digest_is_that_of_the_request():
    made = statement(report())

    assert made["predicate"]["buildDefinition"]["externalParameters"]["request"]["digest"] == SALTED
    place = dependencies(made)[FORGET_PATH]["annotations"]["saltedDigest"]
    assert place == "externalParameters.request.digest"


def test_without_a_request_no_salted_digest_is_pointed_to():
    made = statement(report(request=None))

    assert made["predicate"]["buildDefinition"]["externalParameters"]["request"] is None
    assert "saltedDigest" not in dependencies(made)[FORGET_PATH]["annotations"]


def test_the_unlearn_run_gives_the_times():
    """It began at 23:00:00, an hour east of Greenwich, and took 4.25 s; whole ones are given."""
    metadata = statement(report())["predicate"]["runDetails"]["metadata"]

    assert metadata["startedOn"] == "2026-11-25T22:00:00Z"
    assert metadata["finishedOn"] == "2026-11-25T22:00:04Z"


def test_each_run_and_the_audit_are_byproducts():
    found = statement(report())["predicate"]["runDetails"]["byproducts"]

    assert [one["name"] for one in found] == ["run prepare_data", "run unlearn@seuf_ga", "audit"]
    assert found[1]["annotations"]["seconds"] == 4.25
    assert found[1]["annotations"]["environment"] == ENVIRONMENT
    assert found[2]["annotations"]["verdict"] == "PASS"
    assert found[2]["annotations"]["checks"][1]["result"] == "NOTE"


def test_without_recorded_runs_there_is_no_metadata():
    details = statement(report(runs=[]))["predicate"]["runDetails"]

    assert "metadata" not in details
    assert [one["name"] for one in details["byproducts"]] == ["audit"]


def test_an_audit_that_got_no_further_than_the_delta_can_be_stated():
    """Such an audit has failed; what it did not find is left out."""
    base = {"name": "org/base", "digest": None}
    kept = ("study", "method", "verdict", "audited", "checks", "delta")
    made = statement({key: report()[key] for key in kept} | {"base": base})

    assert list(dependencies(made)) == ["base_model"]
    assert "digest" not in dependencies(made)["base_model"]


def test_without_a_commit_no_code_is_named():
    assert "code" not in dependencies(statement(report(commit=None)))


def test_the_same_report_gives_the_same_statement():
    assert json.dumps(statement(report())) == json.dumps(statement(report()))


def test_without_a_delta_there_is_nothing_to_state():
    with pytest.raises(InputError, match="no delta of seuf_ga"):
        statement(report(delta=None))


def test_a_value_that_json_does_not_know_is_refused():
    with pytest.raises(InputError, match="No statement can be made"):
        statement(report(seed=float("nan")))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"subject": []}, "At least one subject"),
        ({"subject": [{"name": "no digest"}]}, "At least one digest"),
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "Wrong statement type"),
        ({"predicateType": "https://slsa.dev/provenance/v0.2"}, "predicate type is .*v0.2"),
        ({"predicate": {"buildDefinition": {"unknown": 1}}}, 'no field named "unknown"'),
        ({"more": 1}, 'no field named "more"'),
    ],
)
def test_what_departs_from_the_specification_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        validated(statement(report()) | change)


def test_the_parameters_that_dvc_records_can_be_stated():
    """Integers stay integers, though the library's own messages know floats alone."""
    settings = {"seed": 12345, "rates": [1e-5], "none": None, "deep": {"on": True}}
    made = statement(report(parameters={"conf/base/parameters.yml": settings}))

    stated = made["predicate"]["buildDefinition"]["externalParameters"]["parameters"]
    assert '"seed": 12345, "rates": [1e-05], "none": null' in json.dumps(stated)
