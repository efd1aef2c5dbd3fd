"""What `verify` says of a checkpoint that is signed; `tests/workflow` verifies a whole audit."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from seuf.audit import FAIL, NOTE, PASS
from seuf.audit.attest import make_keys, sign, statement
from seuf.audit.cli import audit
from seuf.audit.documents import write_documents
from seuf.audit.exported import files_of_model
from seuf.audit.verify import REFERENCE, verdict, verify
from seuf.audit.weights import unlearned_digest
from seuf.datasets import checkpoint as datasets_checkpoint
from seuf.moe.deltas import Delta
from tests.audit.folders import EXPERTS, METHOD, unlearned
from tests.audit.reports import FORGET_PATH, report


@pytest.fixture
def keys(tmp_path):
    """A key pair: private, public."""
    return make_keys(tmp_path / "keys")


@pytest.fixture
def signed(keys, tmp_path):
    """A signed statement, and a checkpoint that the command has signed with the same key."""
    file, folder = tmp_path / "statement.json", unlearned("qwen2_moe", tmp_path).out
    file.write_text(json.dumps(sign(statement(report()), keys[0])))
    ended = CliRunner().invoke(audit, ["sign", str(folder), "--key", str(keys[0])])
    assert (ended.exit_code, ended.output) == (0, f"wrote {folder / 'model.sig'}\n")
    return file, folder


def said(signed, key):
    """Return the check of the checkpoint's signature, after that of the statement's."""
    file, folder = signed
    checks = verify(file, key, checkpoint=folder)
    assert checks[-1][:2] == ("checkpoint", FAIL)  # there is no delta to compare it with
    (check,) = (one for one in checks[1:] if one.name == "signature")
    return check.result, check.text


def test_a_signed_checkpoint_passes(signed, keys):
    result, text = said(signed, keys[1])

    assert (result, "signed with the key of seuf.pub" in text) == (PASS, True)


def test_a_file_that_was_changed_fails_though_the_statement_is_in_order(signed, keys):
    (signed[1] / "README.md").write_text("Nothing was done.")

    result, text = said(signed, keys[1])

    assert (result, "README.md" in text) == (FAIL, True)


def test_without_a_key_it_says_that_nobody_looked(signed):
    result, text = said(signed, None)

    assert (result, "give the public key with --key" in text) == (NOTE, True)


def test_a_checkpoint_that_is_not_signed_has_no_line(signed, keys):
    (signed[1] / "model.sig").unlink()

    checks = verify(signed[0], keys[1], checkpoint=signed[1])

    assert [check.name for check in checks].count("signature") == 1


def test_a_key_that_cannot_sign_is_told_in_one_line(signed, keys):
    ended = CliRunner().invoke(audit, ["sign", str(signed[1]), "--key", str(keys[1])])

    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert "is not a private key in PEM" in ended.output


def test_a_key_that_is_not_there_is_told_in_one_line(signed):
    ended = CliRunner().invoke(audit, ["sign", str(signed[1]), "--key", "/nope"])

    assert ended.output == "error: /nope does not exist: `kedro audit keys` makes a key.\n"


@pytest.fixture
def unsigned(tmp_path):
    """An unsigned statement about a delta that nobody has."""
    made = statement(report(delta=report()["delta"] | {"sha256": "1" * 64}))
    path = tmp_path / "unsigned.json"
    path.write_text(json.dumps(made))
    return path


@pytest.fixture
def about_delta(unsigned, tmp_path):
    """Its delta, and the statement changed to name that delta and its base."""
    made, delta = unlearned("qwen2_moe", tmp_path), tmp_path / "delta.safetensors"
    made.delta.about.update(method=METHOD.model_dump(), experts=EXPERTS)
    made.delta.save(delta)
    state(unsigned, delta, made.delta.base)
    return delta


def state(unsigned, delta, base, **annotations):
    """Let the statement name another delta and base, and no model."""
    content = json.loads(unsigned.read_text())
    content["subject"] = content["subject"][:1]
    content["subject"][0]["digest"]["sha256"] = hashlib.sha256(delta.read_bytes()).hexdigest()
    content["predicate"]["buildDefinition"]["resolvedDependencies"] = [
        {"name": "base_model", "digest": {"sha256": base}, "annotations": annotations}
    ]
    unsigned.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        (["--base", "base"], "base"),
        (["--checkpoint", "nowhere"], "checkpoint"),
        (["--base", "base", "--checkpoint", "out"], "base"),
        (["--delta", "delta.safetensors", "--checkpoint", "nowhere"], "checkpoint"),
        (["--delta", "delta.safetensors", "--checkpoint", "out"], "checkpoint"),
        (["--delta", "delta.safetensors", "--base", "nowhere"], None),
        (["--delta", "delta.safetensors", "--base", "base", "--checkpoint", "nowhere"], None),
    ],
)
def test_what_is_given_and_cannot_be_checked_fails(
    unsigned, about_delta, tmp_path, monkeypatch, options, lacking
):
    monkeypatch.chdir(tmp_path)

    ended = CliRunner().invoke(audit, ["verify", str(unsigned), *options])

    assert (ended.exit_code, ended.stdout.splitlines()[-1][:6]) == (1, "FAIL: ")
    assert lacking is None or f"FAIL  {lacking:10} " in ended.stdout


def test_a_checkpoint_given_with_all_that_it_is_compared_with_passes(
    unsigned, about_delta, tmp_path
):
    checks = verify(unsigned, None, about_delta, tmp_path / "base", tmp_path / "out")

    assert [check.name for check in checks if check.result == FAIL] == []
    assert {"delta", "weights", "base"} <= {one.name for one in checks if one.result == PASS}


def test_a_reference_to_the_base_model_is_told_from_the_model(unsigned, about_delta, tmp_path):
    """As the sandbox's `data/06_models/base_model` is one."""
    folder = tmp_path / "refers"
    folder.mkdir()
    (folder / REFERENCE).write_text('{"source": {"path": "models/mine"}}')

    checks = verify(unsigned, delta=about_delta, base=folder)

    line = f"FAIL: {folder} only refers to the base model: give the folder of models/mine"
    assert verdict(checks) == (line, 1)
    assert REFERENCE == datasets_checkpoint.REFERENCE


def test_a_signer_key_does_not_make_up_for_a_checkpoint_that_nobody_looked_at(keys, tmp_path):
    file = tmp_path / "statement.json"
    file.write_text(json.dumps(sign(statement(report()), keys[0])))

    assert verdict(verify(file, keys[1]))[1] == 2
    for given in ({"base": tmp_path}, {"checkpoint": tmp_path}):
        assert verdict(verify(file, keys[1], **given))[1] == 1


@pytest.mark.parametrize(
    "about", [{}, {"method": 3}, {"method": METHOD.model_dump(), "experts": 3}]
)
def test_a_delta_that_does_not_say_what_made_it_fails_in_one_sentence(
    unsigned, about_delta, tmp_path, about
):
    delta = dataclasses.replace(Delta.load(about_delta), about=about)
    delta.save(about_delta)
    state(unsigned, about_delta, delta.base)

    line, code = verdict(verify(unsigned, None, about_delta, tmp_path / "base"))

    assert (line, code) == (
        f"FAIL: {about_delta} does not say which method made it, with which experts",
        1,
    )


def test_a_delta_whose_expert_is_no_number_fails_without_a_traceback(
    unsigned, about_delta, tmp_path
):
    """`[0.0, true]` equals `[0, 1]`, but names no tensor; it ended in an AttributeError."""
    about = {"method": METHOD.model_dump(), "experts": [[0.0, True]]}
    delta = dataclasses.replace(Delta.load(about_delta), about=about)
    delta.save(about_delta)
    state(unsigned, about_delta, delta.base)

    assert verdict(verify(unsigned, None, about_delta, tmp_path / "base"))[1] == 1


@pytest.mark.parametrize("text", ["[" * 200_000, '{"payload": ' + "[" * 200_000])
def test_deeply_nested_json_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "deep.json"
    file.write_text(text)

    ended = CliRunner().invoke(audit, ["verify", str(file)])

    assert isinstance(ended.exception, SystemExit)
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert ended.output.startswith(f"error: {file} cannot be read: ")


def test_a_key_that_stands_twice_makes_it_no_statement(unsigned):
    """Another reader would verify the one that this one passes over."""
    unsigned.write_text(unsigned.read_text().replace("{", '{"subject": [], ', 1))

    ended = CliRunner().invoke(audit, ["verify", str(unsigned)])

    assert ended.exit_code == 1
    assert ended.output.endswith("cannot be read: it has the key 'subject' twice\n")


def test_a_delta_that_is_exchanged_while_it_is_verified_fails(unsigned, about_delta, monkeypatch):
    """It is hashed, then read once more for its weights."""
    load = Delta.load

    def after_another_write(path):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (0, 0))  # else it may be the same hundredth second
        return load(path)

    monkeypatch.setattr(Delta, "load", after_another_write)
    checks = verify(unsigned, None, about_delta)

    assert checks[-1] == ("bytes", FAIL, f"{about_delta} was written to while it was verified")


def test_a_name_in_a_statement_cannot_write_on_the_terminal(unsigned):
    """A line of its own would look like a check, and ESC [ moves the cursor."""
    content = json.loads(unsigned.read_text())
    content["subject"].append({"name": "x\n\x1b[1mPASS  delta", "digest": {}})
    unsigned.write_text(json.dumps(content))

    ended = CliRunner().invoke(audit, ["verify", str(unsigned)])

    assert "it names x\\n\\x1b[1mPASS  delta without exactly one SHA-256" in ended.output
    assert all(line.isprintable() for line in ended.output.splitlines())


def test_an_envelope_nested_more_deeply_than_it_can_be_copied_fails_in_one_line(tmp_path):
    file = tmp_path / "deep.json"
    file.write_text('{"payload": ' + "[" * 700 + "]" * 700 + "}")

    ended = CliRunner().invoke(audit, ["verify", str(file)])

    assert isinstance(ended.exception, SystemExit)
    assert ended.output.splitlines()[-1].startswith("FAIL: This is not a DSSE envelope")


def test_a_statement_of_which_nothing_was_verified_does_not_pass(unsigned):
    """It is not signed, and neither a key nor a delta is given: anyone can have written it."""
    ended = CliRunner().invoke(audit, ["verify", str(unsigned)])

    assert ended.exit_code == 2
    assert ended.output.splitlines()[-1].startswith("NOTHING VERIFIED: ")
    assert "PASS" not in ended.output


def test_a_signed_statement_without_key_and_delta_does_not_pass_either(signed):
    ended = CliRunner().invoke(audit, ["verify", str(signed[0])])

    assert (ended.exit_code, ended.output.count("NOTHING VERIFIED")) == (2, 1)


def test_an_unsigned_statement_passes_with_its_delta_and_fails_with_another(unsigned, tmp_path):
    delta = tmp_path / "delta.safetensors"
    delta.write_bytes(b"another")
    content = json.loads(unsigned.read_text())

    failed = CliRunner().invoke(audit, ["verify", str(unsigned), "--delta", str(delta)])
    content["subject"][0]["digest"]["sha256"] = hashlib.sha256(b"another").hexdigest()
    unsigned.write_text(json.dumps(content))

    assert (failed.exit_code, failed.output.splitlines()[-1][:5]) == (1, "FAIL:")
    checks = {check.name: check.result for check in verify(unsigned, delta=delta)}
    assert checks["delta"] == PASS


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("subject"),
        lambda content: content.update(subject=[]),
        lambda content: content.update(subject=[{"name": "delta"}]),
        lambda content: content.update(subject=[{"digest": {}}]),
        lambda content: content.update(subject=[{"digest": {"sha256": None}}]),
        lambda content: content.update(subject=3),
        lambda content: content.update(predicate=None),
        lambda content: content["predicate"].pop("buildDefinition"),
        lambda content: content["predicate"]["buildDefinition"].pop("resolvedDependencies"),
        lambda content: content["predicate"]["buildDefinition"]["resolvedDependencies"].pop(0),
        lambda content: content["predicate"]["buildDefinition"]["resolvedDependencies"][0].pop(
            "digest"
        ),
    ],
)
@pytest.mark.parametrize("with_delta", [False, True])
def test_a_statement_that_lacks_a_field_is_refused_in_one_line(
    unsigned, tmp_path, damage, with_delta
):
    delta = tmp_path / "delta.safetensors"
    delta.write_bytes(b"any")
    content = json.loads(unsigned.read_text())
    damage(content)
    unsigned.write_text(json.dumps(content))

    options = ["--delta", str(delta)] if with_delta else []
    ended = CliRunner().invoke(audit, ["verify", str(unsigned), *options])

    assert isinstance(ended.exception, SystemExit)
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert ended.output.startswith(f"error: {unsigned} does not state a delta and ")


def test_zeros_for_a_digest_are_no_digest(unsigned, tmp_path):
    """Whoever leaves the digest out must not be taken for one who has made the delta."""
    content = json.loads(unsigned.read_text())
    for digest in ("0" * 64, "a" * 63, "A" * 64, "no digest"):
        content["subject"][0]["digest"]["sha256"] = digest
        unsigned.write_text(json.dumps(content))

        ended = CliRunner().invoke(audit, ["verify", str(unsigned)])

        assert ended.exit_code == 1
        assert ended.output.endswith("does not state a delta and its base model: no subject.\n")


@pytest.fixture
def handed(keys, tmp_path):
    """What is handed on of a delta of a tiny base: all that `verify` may be given, by option."""
    made, path = unlearned("qwen2_moe", tmp_path), tmp_path / "delta.safetensors"
    made.delta.about.update(method=METHOD.model_dump(), experts=EXPERTS)
    made.delta.save(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    base = {"name": "base", "digest": made.delta.base, "files": files_of_model(made.base)}
    about = report(delta=report()["delta"] | {"sha256": sha256, "base": made.delta.base}, base=base)
    about["changes"]["model"] = unlearned_digest(made.base, made.delta)
    write_documents(about, tmp_path / "handed", {FORGET_PATH}, keys[0])
    statement = tmp_path / "handed/statement.json"
    return {"file": statement, "key": keys[1], "delta": path, "base": made.base}


SUBJECTS = {
    "certificate.html": "certificate",
    "bom.cdx.json": "bill",
    "audit.json": "report",
}


def test_what_was_handed_on_passes_as_a_whole(handed):
    checks = verify(**handed)

    assert {check.result for check in checks} == {PASS}
    assert set(SUBJECTS.values()) | {"delta", "model", "files"} <= {one.name for one in checks}
    assert verdict(checks) == (PASS, 0)


@pytest.mark.parametrize(
    ("left_out", "named"),
    [("key", "signature"), ("delta", "delta"), ("base", "weights"), *SUBJECTS.items()],
)
def test_what_was_left_out_is_named_and_the_rest_is_no_success(handed, left_out, named):
    if left_out in SUBJECTS:
        handed["file"].with_name(left_out).unlink()
    elif left_out == "delta":
        del handed["delta"], handed["base"]
    else:
        del handed[left_out]

    line, code = verdict(verify(**handed))

    assert (line, code) == (f"NOT ALL VERIFIED: {named}: see each NOTE", 2)


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_document_with_another_byte_fails(handed, name):
    path = handed["file"].with_name(name)
    path.write_text(path.read_text() + " ")

    line = f"FAIL: {path} is not the one that the statement names"
    assert verdict(verify(**handed)) == (line, 1)


def unsign(handed, change):
    """Take the signature off, and change what was signed, as anyone can."""
    envelope = json.loads(handed["file"].read_text())
    content = json.loads(base64.b64decode(envelope["payload"]))
    change(content)
    handed["file"].write_text(json.dumps(content))
    del handed["key"]


def test_without_its_signature_a_statement_of_which_all_else_fits_is_no_success(handed):
    unsign(handed, lambda content: None)

    assert verdict(verify(**handed)) == ("NOT ALL VERIFIED: signature: see each NOTE", 2)


def test_a_subject_without_a_digest_is_named(handed):
    """It must not be passed over because the delta, another subject, has a digest."""
    unsign(handed, lambda content: None)
    whole = handed["file"].read_text()
    of_model = [("resulting model", digest) for digest in ("a" * 63, "A" * 64, "", None, 3)]
    for name, digest in [*of_model, *((one, "0" * 64) for one in ("resulting model", *SUBJECTS))]:
        content = json.loads(whole)
        (subject,) = [one for one in content["subject"] if one["name"] == name]
        subject["digest"]["sha256"] = digest
        handed["file"].write_text(json.dumps(content))

        line = f"FAIL: it names {name} without exactly one SHA-256"
        assert verdict(verify(handed["file"])) == (line, 1)


def test_a_subject_that_was_taken_out_is_missed(handed):
    """A document that lies beside the statement and is not named can be anyone's."""
    unsign(handed, lambda content: None)
    whole = handed["file"].read_text()
    for name in ("resulting model", *SUBJECTS):
        content = json.loads(whole)
        content["subject"] = [one for one in content["subject"] if one["name"] != name]
        handed["file"].write_text(json.dumps(content))

        checks = verify(**handed)

        named = [check for check in checks if name in check.text and check.result != PASS]
        assert [check.result for check in named] == [FAIL if name in SUBJECTS else NOTE]
        assert verdict(checks)[1] == (1 if name in SUBJECTS else 2)


def test_two_subjects_of_one_name_are_refused(handed):
    unsign(handed, lambda content: content["subject"].extend(content["subject"][1:2]))

    checks = verify(**handed)

    assert "it names resulting model without exactly one" in verdict(checks)[0]


@pytest.fixture
def handed_on(keys, tmp_path):
    """A folder with a signed statement, and the certificate that it names."""
    write_documents(report(), tmp_path / "handed", {FORGET_PATH}, keys[0], "The Office")
    return tmp_path / "handed"


def test_an_edited_number_on_the_certificate_is_caught(handed_on, keys):
    statement, page = handed_on / "statement.json", handed_on / "certificate.html"
    before = {check.name: check.result for check in verify(statement, keys[1])}
    assert "50.0%" in page.read_text()
    page.write_text(page.read_text().replace("50.0%", "25.0%"))

    checks = verify(statement, keys[1])

    assert before["certificate"] == PASS
    assert verdict(checks) == (f"FAIL: {page} is not the one that the statement names", 1)


def test_a_page_beside_an_unsigned_statement_verifies_nothing(tmp_path):
    """Anyone can make both."""
    write_documents(report(), tmp_path / "handed", {FORGET_PATH}, None)

    checks = verify(tmp_path / "handed/statement.json")

    assert {check.name: check.result for check in checks}["certificate"] == PASS
    assert verdict(checks)[1] == 2


def test_a_certificate_that_is_asked_for_must_be_the_stated_one(handed_on, keys, tmp_path):
    statement = handed_on / "statement.json"
    (tmp_path / "other.html").write_text("<html>All is forgotten.</html>")

    for page in (tmp_path / "other.html", tmp_path / "gone.html"):
        assert verdict(verify(statement, keys[1], certificate=page))[1] == 1


def test_the_certificate_names_who_issued_it_and_with_which_key(handed_on, keys):
    page = (handed_on / "certificate.html").read_text()
    signature = json.loads((handed_on / "statement.json").read_text())["signatures"][0]

    assert "The Office" in page
    assert signature["keyid"] in page


def test_another_resulting_model_than_the_stated_one_fails(unsigned, about_delta, tmp_path):
    content, base = json.loads(unsigned.read_text()), tmp_path / "base"
    right = unlearned_digest(base, Delta.load(about_delta))
    for digest, result in ((right, PASS), ("3" * 64, FAIL)):
        content["subject"] = [
            *content["subject"][:1],
            {"name": "resulting model", "digest": {"sha256": digest}},
        ]
        unsigned.write_text(json.dumps(content))

        checks = verify(unsigned, None, about_delta, base)

        assert {check.name: check.result for check in checks}["model"] == result


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "num_experts_per_tok"),
        ("chat_template.jinja", None),
        ("modeling.py", None),
        ("additional_chat_templates/tool.jinja", None),
        ("deep/pytorch_model.bin", None),
        ("__pycache__/x.so", None),
    ],
)
def test_a_base_that_is_loaded_otherwise_is_named_though_its_weights_are_right(
    unsigned, about_delta, tmp_path, name, text
):
    """The same weights, with another number of experts a token, are another model."""
    base = tmp_path / "base"
    state(unsigned, about_delta, Delta.load(about_delta).base, files=files_of_model(base))
    before = {check.name: check.result for check in verify(unsigned, None, about_delta, base)}
    path = base / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(path.read_text().replace(f'"{text}": 2', f'"{text}": 1') if text else "x")

    checks = {check.name: check for check in verify(unsigned, None, about_delta, base)}

    assert (before["files"], checks["files"].result) == (PASS, FAIL)
    assert f"not as stated: {name}" in checks["files"].text


ELSEWHERE = """
import sys
import seuf.audit.attest, seuf.audit.weights
from seuf.audit.cli import verify
try:
    verify()
finally:
    assert not {"kedro", "dvc"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_outside_a_project_a_verification_needs_no_kedro_and_prints_its_lines_alone(
    unsigned, tmp_path
):
    command = [sys.executable, "-c", ELSEWHERE, str(unsigned)]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (2, "")
    *lines, last = ended.stdout.splitlines()
    assert ({line[:4] for line in lines}, last[:4]) == ({"NOTE"}, "NOTH")
