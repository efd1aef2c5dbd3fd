"""What was signed once cannot be rewritten with the commits of a repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seuf.audit import FAIL, PASS
from seuf.audit.attest import make_keys, sign, statement
from seuf.audit.cross_checks import check_since
from seuf.audit.ledger import LEDGER, entry_digest, read_ledger
from seuf.audit.requests import open_request
from tests.audit.reports import report

KEPT = {"path": "evidence/sandbox/runs/x.json", "sha256": "6a" * 32}


def opened(project: Path, name: str) -> None:
    open_request(project, name, ["a text"], date="2026-11-20T00:00:00+00:00", reason="asked")


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with a ledger of one request."""
    folder = tmp_path / "project"
    folder.mkdir()
    opened(folder, "1")
    return folder


@pytest.fixture
def now(project):
    """The report of an audit."""
    ledger = read_ledger(project)
    told = {"path": LEDGER, "sha256": entry_digest(ledger[-1]), "entries": len(ledger)}
    return report(evidence=[*report()["evidence"], KEPT, told])


@pytest.fixture
def signed(now, tmp_path):
    """Its statement, and the key of who signed it."""
    private, public = make_keys(tmp_path / "keys")
    file = tmp_path / "earlier.json"
    file.write_text(json.dumps(sign(statement(now), private)))
    return file, public


def test_what_is_as_it_was_passes_and_the_ledger_may_have_grown(now, project, signed):
    opened(project, "2")

    assert check_since(now, project, *signed).result == PASS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"evidence": [KEPT | {"sha256": "7b" * 32}]}, "runs/x.json"),
        ({"evidence": []}, "runs/x.json (gone)"),
        ({"delta": report()["delta"] | {"sha256": "7b" * 32}}, "delta.safetensors"),
        ({"changes": report()["changes"] | {"model": "7b" * 32}}, "resulting model"),
        ({"method": "other"}, "is about seuf_ga of sandbox"),
    ],
)
def test_what_was_rewritten_since_is_named(now, project, signed, change, named):
    check = check_since(now | change, project, *signed)

    assert (check.result, named in check.text) == (FAIL, True)


def test_a_ledger_that_was_written_anew_is_noticed(now, project, signed):
    """Its digests agree with each other, as whoever writes it can see to."""
    for path in (project / LEDGER, project / "evidence/requests/1.json", project / ".salts/1"):
        path.unlink()
    opened(project, "1")

    check = check_since(now, project, *signed)

    assert (check.result, LEDGER in check.text) == (FAIL, True)


def test_a_statement_of_another_key_is_no_witness(now, project, signed, tmp_path):
    other = make_keys(tmp_path / "other")[1]

    assert check_since(now, project, signed[0], other).result == FAIL


def test_what_was_not_signed_then_is_not_as_signed(now, project, signed):
    """A statement of an earlier version holds no record: it proves nothing of them."""
    later = now | {"evidence": [*now["evidence"], KEPT | {"path": "evidence/sandbox/runs/y.json"}]}

    check = check_since(later, project, *signed)

    assert (check.result, "runs/y.json (was not signed)" in check.text) == (FAIL, True)
