"""In a plain install, without the packages of the extra, an audit works and the rest says so."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import kedro_dvc.project
import seuf.audit
import seuf.audit.audited
import seuf.audit.report
from seuf.audit import PACKAGES, MissingExtraError, needs_extra
from seuf.audit.attest import make_keys, sign, statement
from seuf.audit.cli import audit
from tests.audit.reports import FORGET_PATH, report

ADVICE = 'pip install "seuf[audit]"'


@pytest.fixture
def plain_install(monkeypatch):
    """No package of the extra can be imported."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
    for name in {*loaded, *PACKAGES}:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def audited(monkeypatch):
    """Every method of every study gives the example report."""
    monkeypatch.setattr(kedro_dvc.project, "load_study", lambda project, env: None)
    monkeypatch.setattr(seuf.audit.audited, "confidential_paths", lambda study: {FORGET_PATH})
    monkeypatch.setattr(seuf.audit.report, "audit", lambda audited: report())


def call(*arguments):
    """Return exit code and output of `kedro audit`, which no error but its own may end."""
    ended = CliRunner().invoke(audit, [str(one) for one in arguments], catch_exceptions=False)
    return ended.exit_code, ended.output


def test_no_module_imports_a_package_of_the_extra_before_it_is_needed():
    for path in Path(seuf.audit.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in named} & PACKAGES, path.name


def test_an_audit_needs_no_extra(plain_install, audited):
    code, output = call("seuf_ga")

    assert (code, output.splitlines()[-1]) == (0, "PASS")


@pytest.mark.parametrize("sign", [False, True])
def test_its_documents_need_the_extra_and_nothing_is_written(
    plain_install, audited, tmp_path, sign
):
    key = tmp_path / "seuf.key"
    key.write_text("")

    code, output = call("seuf_ga", "--out", tmp_path / "out", *(["--sign", key] if sign else []))

    assert code == 1
    assert output.splitlines()[-1].startswith("error: This needs the package ")
    assert output.splitlines()[-1].endswith(ADVICE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["keys", "new"], ["sign", "folder", "--key", "seuf.key"]])
def test_keys_and_signatures_need_the_extra(plain_install, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)

    code, output = call(*arguments)

    assert (code, output.count("\n"), ADVICE in output) == (1, 1, True)
    assert list(tmp_path.iterdir()) == []


def test_events_need_the_extra(plain_install, tmp_path):
    from seuf.audit.events import emit

    with pytest.raises(MissingExtraError, match=r"needs the package openlineage.*seuf\[audit\]"):
        emit([], "sandbox", str(tmp_path / "events"))


def test_a_signed_statement_needs_the_extra_and_is_not_said_to_be_forged(tmp_path, request):
    """The signature was not checked: that is no FAIL."""
    private, public = make_keys(tmp_path / "keys")
    file = tmp_path / "statement.json"
    file.write_text(json.dumps(sign(statement(report()), private)))
    request.getfixturevalue("plain_install")

    code, output = call("verify", file, "--key", public)

    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("error: This needs the package securesystemslib")
    assert ADVICE in output


def test_an_unsigned_statement_is_compared_with_its_delta_without_the_extra(
    tmp_path, plain_install
):
    content = {
        "subject": [{"digest": {"sha256": "2" * 64}}],
        "predicate": {
            "buildDefinition": {
                "resolvedDependencies": [{"name": "base_model", "digest": {"sha256": "1" * 64}}]
            }
        },
    }
    file, delta = tmp_path / "statement.json", tmp_path / "delta.safetensors"
    file.write_text(json.dumps(content))
    delta.write_bytes(b"another")

    code, output = call("verify", file, "--delta", delta)

    assert (code, "is not the delta that the statement is about" in output) == (1, True)


def test_other_packages_that_are_missing_keep_their_error():
    with pytest.raises(ModuleNotFoundError, match="nowhere"), needs_extra():
        import nowhere  # noqa: F401
