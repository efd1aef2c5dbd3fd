"""What `verify` says of a checkpoint that is signed; `tests/workflow` verifies a whole audit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from seuf.audit import FAIL, NOTE, PASS
from seuf.audit.attest import make_keys, sign, statement
from seuf.audit.cli import audit
from seuf.audit.verify import verify
from tests.audit.folders import unlearned
from tests.audit.reports import report


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
    """Return the second check, which is that of the checkpoint's signature."""
    file, folder = signed
    checks = verify(file, key, checkpoint=folder)
    assert [check.name for check in checks] == ["signature", "signature", "delta"]
    return checks[1].result, checks[1].text


def test_a_signed_checkpoint_passes(signed, keys):
    result, text = said(signed, keys[1])

    assert (result, "signed with the key of seuf.pub" in text) == (PASS, True)


def test_a_file_that_was_changed_fails_though_the_statement_is_in_order(signed, keys):
    (signed[1] / "README.md").write_text("Nothing was done.")

    result, text = said(signed, keys[1])

    assert (result, "README.md" in text) == (FAIL, True)


def test_without_a_key_it_says_that_nobody_looked(signed):
    result, text = said(signed, None)

    assert (result, "--key names a public key" in text) == (NOTE, True)


def test_a_checkpoint_that_is_not_signed_has_no_line(signed, keys):
    (signed[1] / "model.sig").unlink()

    checks = verify(signed[0], keys[1], checkpoint=signed[1])

    assert [check.name for check in checks] == ["signature", "delta"]


def test_a_key_that_cannot_sign_is_told_in_one_line(signed, keys):
    ended = CliRunner().invoke(audit, ["sign", str(signed[1]), "--key", str(keys[1])])

    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert "is no private key in PEM" in ended.output


@pytest.fixture
def unsigned(tmp_path):
    """An unsigned statement about a delta whose digest is all zeros."""
    made = statement(report(delta=report()["delta"] | {"sha256": "0" * 64}))
    path = tmp_path / "unsigned.json"
    path.write_text(json.dumps(made))
    return path


@pytest.mark.parametrize("options", [[], ["--base", "nowhere"], ["--checkpoint", "nowhere"]])
def test_a_statement_of_which_nothing_was_verified_does_not_pass(unsigned, options):
    """It is not signed, and neither a key nor a delta is given: anyone can have written it."""
    ended = CliRunner().invoke(audit, ["verify", str(unsigned), *options])

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
    assert ended.output.startswith(f"error: {unsigned} is no statement of ")


ELSEWHERE = """
import sys
import seuf.audit.attest, seuf.audit.weights
from seuf.audit.cli import verify
try:
    verify()
finally:
    assert not {"kedro", "dvc"} & sys.modules.keys()
"""


def test_outside_a_project_a_verification_needs_no_kedro_and_prints_its_lines_alone(
    unsigned, tmp_path
):
    command = [sys.executable, "-c", ELSEWHERE, str(unsigned)]

    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (2, "")
    assert [line[:4] for line in ended.stdout.splitlines()] == ["NOTE", "NOTE", "NOTH"]
