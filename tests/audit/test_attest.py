"""What the in-toto statement says, what a signature holds to, and how either can be wrong."""

import base64
import hashlib
import json
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement_pb2 import Statement

from seuf.audit.attest import (
    make_keys,
    open_envelope,
    sign,
    sign_folder,
    statement,
    validated,
    verify_folder,
)
from seuf.audit.cli import audit
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
    MODEL,
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


def test_the_subjects_are_the_delta_the_model_that_it_makes_and_the_documents():
    made = statement(report(), {"certificate.html": "page", "bom.cdx.json": "bill"})

    assert {one["name"]: one["digest"]["sha256"] for one in made["subject"]} == {
        DELTA_PATH: DELTA,
        "resulting model": MODEL,
        "certificate.html": hashlib.sha256(b"page").hexdigest(),
        "bom.cdx.json": hashlib.sha256(b"bill").hexdigest(),
    }


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


def test_the_same_report_gives_the_same_statement():
    assert json.dumps(statement(report())) == json.dumps(statement(report()))


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


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A key pair: private, public."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory):
    """The key pair of somebody else."""
    return make_keys(tmp_path_factory.mktemp("other"))


@pytest.fixture
def envelope(keys):
    """A signed statement, as it is read from a file."""
    return json.loads(json.dumps(sign(statement(report()), keys[0])))


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as an export leaves it."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "config.json").write_text("{}")
    return folder


def tampered(envelope, old: str, new: str):
    """Return the envelope with another text in its payload."""
    text = base64.b64decode(envelope["payload"]).decode()
    assert old in text
    return envelope | {"payload": base64.b64encode(text.replace(old, new).encode()).decode()}


def test_only_the_owner_can_read_the_private_key(tmp_path):
    private, public = make_keys(tmp_path / "new")

    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert isinstance(load_pem_public_key(public.read_bytes()).curve, SECP256R1)
    assert b"PRIVATE" not in public.read_bytes()


@pytest.mark.parametrize(
    ("ignored", "code"), [("", 1), ("*.pub\n", 1), ("/keys/\n", 0), ("*.key\n", 0)]
)
def test_a_private_key_that_git_would_commit_is_not_written(tmp_path, ignored, code):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(ignored)

    ended = CliRunner().invoke(audit, ["keys", str(tmp_path / "keys")])

    refused = f"error: {tmp_path / 'keys/seuf.key'} would be committed: name a folder that git "
    assert (ended.exit_code, ended.stderr.startswith(refused)) == (code, bool(code))
    assert (tmp_path / "keys").exists() == (not code)


def test_where_there_is_no_git_any_folder_will_do(tmp_path, monkeypatch):
    outside = CliRunner().invoke(audit, ["keys", str(tmp_path / "outside")])
    monkeypatch.setenv("PATH", "")
    without = CliRunner().invoke(audit, ["keys", str(tmp_path / "without")])

    assert [(ended.exit_code, ended.stderr) for ended in (outside, without)] == [(0, "")] * 2


def test_the_folder_for_keys_of_the_docs_is_ignored_here():
    root = Path(__file__).parents[2]

    assert "/keys/" in (root / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", ["seuf.key", "seuf.pub"])
def test_a_key_is_never_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")

    with pytest.raises(InputError, match=f"{name} exists"):
        make_keys(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_signed_statement_opens_with_the_public_key(envelope, keys):
    before = json.dumps(envelope)

    assert open_envelope(envelope, keys[1]) == statement(report())
    assert json.dumps(envelope) == before


def test_a_statement_can_be_read_without_a_key(envelope):
    unsigned = envelope | {"signatures": []}

    assert open_envelope(unsigned, None) == statement(report())


def test_the_key_id_may_be_missing(envelope, keys):
    """DSSE makes it optional, and model-signing leaves it empty."""
    anonymous = envelope | {"signatures": [{"sig": envelope["signatures"][0]["sig"]}]}

    assert open_envelope(anonymous, keys[1]) == statement(report())


def test_another_verdict_is_noticed(envelope, keys):
    changed = tampered(envelope, '"verdict": "PASS"', '"verdict": "FAIL"')

    with pytest.raises(InputError, match="changed after it was signed"):
        open_envelope(changed, keys[1])


def test_one_bit_of_the_payload_is_noticed(envelope, keys):
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[100] ^= 1

    with pytest.raises(InputError, match="changed after it was signed"):
        open_envelope(envelope | {"payload": base64.b64encode(payload).decode()}, keys[1])


def test_a_statement_signed_with_another_key_is_noticed(keys, other_keys):
    with pytest.raises(InputError, match="signed by another key"):
        open_envelope(sign(statement(report()), other_keys[0]), keys[1])


def test_another_key_under_the_same_name_is_noticed(envelope, keys, other_keys):
    forged = sign(statement(report()), other_keys[0])
    forged["signatures"][0]["keyid"] = envelope["signatures"][0]["keyid"]

    with pytest.raises(InputError, match="changed after it was signed"):
        open_envelope(forged, keys[1])


def test_an_envelope_without_signature_is_not_believed(envelope, keys):
    with pytest.raises(InputError, match="no signature"):
        open_envelope(envelope | {"signatures": []}, keys[1])


def test_another_type_of_payload_is_refused(envelope, keys):
    with pytest.raises(InputError, match=r"holds 'text/plain'"):
        open_envelope(envelope | {"payloadType": "text/plain"}, keys[1])


@pytest.mark.parametrize(
    "thing",
    [
        [],
        None,
        {"payload": "e30="},
        {"payload": "?", "payloadType": "a", "signatures": []},
        {"payload": "e30=", "payloadType": "a", "signatures": [1]},
        {"payload": 1, "payloadType": "a", "signatures": [{"sig": "AA=="}]},
        {"payload": "e30=", "payloadType": "a", "signatures": [{"sig": None}]},
        {"payload": "e30=", "payloadType": "a", "signatures": [{"sig": "AA==", "keyid": 7}]},
    ],
)
def test_what_is_no_envelope_is_refused(thing, keys):
    with pytest.raises(InputError, match="not a DSSE envelope"):
        open_envelope(thing, keys[1])


@pytest.mark.parametrize(
    "payload",
    [
        *(b"{}", b"[]", b"no JSON", b"\xff", b'{"_type": 1}', b'{"_type": 1, "_type": 2}'),
        b'{"predicate": {"a": 1%s}}' % (b"0" * 400),  # no number that protobuf can hold
        b'{"predicate": "\\ud800"}',
    ],
)
def test_a_payload_that_is_no_statement_is_refused(payload):
    kind = "application/vnd.in-toto+json"
    text = base64.b64encode(payload).decode()

    with pytest.raises(InputError, match="no provenance statement"):
        open_envelope({"payload": text, "payloadType": kind, "signatures": []}, None)


def test_a_wrong_key_file_is_named_and_not_shown(envelope, keys, tmp_path):
    private, public = keys

    with pytest.raises(InputError, match=r"seuf\.pub is not a private key") as one:
        sign({}, public)
    with pytest.raises(InputError, match=r"seuf\.key is not a public key") as two:
        open_envelope(envelope, private)
    with pytest.raises(
        InputError, match="missing does not exist: ask the signer for the public key"
    ):
        open_envelope(envelope, tmp_path / "missing")
    assert private.read_text().splitlines()[1] not in f"{one.value} {two.value}"


def test_a_signed_folder_verifies_with_its_signature_inside(checkpoint, keys):
    signature = checkpoint / "model.sig"

    sign_folder(checkpoint, keys[0], signature)

    verify_folder(checkpoint, signature, keys[1])


def test_the_command_of_model_signing_accepts_our_signature(checkpoint, keys):
    from model_signing._cli import main

    signature = checkpoint / "model.sig"
    sign_folder(checkpoint, keys[0], signature)
    command = ["verify", "key", str(checkpoint), "--signature", str(signature)]

    good = CliRunner().invoke(main, [*command, "--public_key", str(keys[1])])
    (checkpoint / "config.json").write_text("{ }")
    bad = CliRunner().invoke(main, [*command, "--public_key", str(keys[1])])

    assert (good.exit_code, good.output) == (0, "Verification succeeded\n")
    assert bad.exit_code == 1


def test_the_signature_of_a_folder_does_not_pass_for_a_statement(checkpoint, keys, tmp_path):
    """Both are in-toto statements signed with one key, but of another predicate."""
    sign_folder(checkpoint, keys[0], tmp_path / "model.sig")
    bundle = json.loads((tmp_path / "model.sig").read_text())

    with pytest.raises(InputError, match="no provenance statement: predicate type"):
        open_envelope(bundle["dsseEnvelope"], keys[1])


def flipped(folder):
    """Change one bit of the weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def truncated(folder):
    """Cut the weights' last byte off."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (flipped, "Hash mismatch for 'model.safetensors'"),
        (truncated, "Hash mismatch for 'model.safetensors'"),
        (lambda folder: (folder / "config.json").unlink(), "Missing files"),
        (lambda folder: (folder / "evil.py").write_text(""), "Extra files .*evil.py"),
        (lambda folder: (folder / "link").symlink_to("config.json"), "symlink"),
    ],
)
def test_a_changed_folder_is_noticed(checkpoint, keys, tmp_path, change, told):
    sign_folder(checkpoint, keys[0], tmp_path / "model.sig")

    change(checkpoint)

    with pytest.raises(InputError, match=told):
        verify_folder(checkpoint, tmp_path / "model.sig", keys[1])


def test_a_folder_signed_with_another_key_is_noticed(checkpoint, keys, other_keys, tmp_path):
    sign_folder(checkpoint, other_keys[0], tmp_path / "model.sig")

    with pytest.raises(InputError, match="Key mismatch"):
        verify_folder(checkpoint, tmp_path / "model.sig", keys[1])


def test_a_changed_signature_of_a_folder_is_noticed(checkpoint, keys, tmp_path):
    path = tmp_path / "model.sig"
    sign_folder(checkpoint, keys[0], path)
    bundle = json.loads(path.read_text())
    bundle["dsseEnvelope"] = tampered(bundle["dsseEnvelope"], "config.json", "c0nfig.json")

    path.write_text(json.dumps(bundle))

    with pytest.raises(InputError, match="signature was changed"):
        verify_folder(checkpoint, path, keys[1])


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"verificationMaterial": {}}'])
def test_a_file_that_is_no_signature_is_refused_in_one_line(checkpoint, keys, tmp_path, text):
    path = tmp_path / "model.sig"
    path.write_text(text)

    with pytest.raises(InputError, match="could not be verified") as told:
        verify_folder(checkpoint, path, keys[1])

    assert "\n" not in str(told.value)


def test_a_missing_folder_is_refused(keys, tmp_path):
    with pytest.raises(InputError, match="could not be signed"):
        sign_folder(tmp_path / "missing", keys[0], tmp_path / "model.sig")
