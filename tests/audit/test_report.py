"""What a report concludes: whether enough was forgotten, and what speaks against a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kedro_dvc.files import git
from seuf.audit import Check, cross_checks, failed, passed
from seuf.audit.cross_checks import with_request
from seuf.audit.forgetting_verdict import forgetting
from seuf.audit.report import guarded, repository_of
from seuf.audit.requests import open_request
from tests.audit.reports import report

BOUNDS = ("forget_at_most", "utility_at_least")


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((None, None), "NOT JUDGED"),
        ((0.7, None), "REACHED"),
        ((0.6, None), "NOT SHOWN"),
        ((0.4, None), "NOT REACHED"),
        ((None, 0.6), "REACHED"),
        ((None, 0.65), "NOT SHOWN"),
        ((None, 0.75), "NOT REACHED"),
        ((0.7, 0.75), "NOT REACHED"),
        ((0.6, 0.6), "NOT SHOWN"),
    ],
)
def test_a_bound_is_kept_if_the_whole_interval_keeps_it(bounds, verdict):
    """Forgotten: .5 with an error of .1, so .304 to .696; kept: .7 with .05, so .602 to .798."""
    declared = {name: b for name, b in zip(BOUNDS, bounds, strict=True) if b is not None}

    found = forgetting(report(request=report()["request"] | declared))

    assert found["verdict"] == verdict
    assert all(
        f"{name.replace('_', ' ')} {b:g} was declared" in found["text"]
        for name, b in declared.items()
    )


def test_what_the_base_model_kept_to_already_shows_no_forgetting():
    """The base scores .389, the bound is .6: nothing need have been forgotten to keep it."""
    forget = report()["scores"]["forget"] | {"before": 0.389, "after": 0.361, "after_error": 0.08}
    bound = report()["request"] | {"forget_at_most": 0.6}

    found = forgetting(report(request=bound, scores={"forget": forget}))

    assert found["verdict"] == "NOT SHOWN"
    assert found["text"].endswith(", and 0.389 before")


def test_without_a_request_nothing_was_declared():
    assert forgetting(report(request=None))["text"] == "no request declares what is enough"


def test_a_score_that_is_not_there_reaches_nothing():
    bound = report()["request"] | {"forget_at_most": 0.9}

    assert forgetting(report(request=bound, scores={}))["verdict"] == "NOT REACHED"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@git.example/a/b.git", "https://git.example/a/b.git"),
        ("https://git.example/a/b.git", "https://git.example/a/b.git"),
        ("ssh://git@git.example/a", "ssh://git.example/a"),
        ("git@git.example:a/b.git", "git.example:a/b.git"),
        ("/home/me/repository", None),
        ("file:///home/me/repository", None),
    ],
)
def test_a_repository_is_named_without_user_token_and_path(tmp_path, url, shown):
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", url)

    assert repository_of(tmp_path) == shown


@pytest.fixture
def project(tmp_path) -> Path:
    """A project in git with a request that was opened before the model of the report was made."""
    git(tmp_path, "init", "--quiet")
    opened(tmp_path, "1", "2026-11-25T21:59:00+00:00")
    return tmp_path


def opened(project: Path, name: str, date: str) -> None:
    open_request(project, name, ["a text"], date=date, reason="asked", forget_at_most=0.7)


def doubts(project: Path, name: str) -> list[str]:
    """Return what is said of a request, but that no entry of the ledger serves it."""
    checks = with_request(report(), project, name)["checks"]
    said = [f"{c['result']} {c['text']}" for c in checks if c["name"] == "request"]
    return [text for text in said if "does not say that this delta serves" not in text]


def test_a_ledger_that_is_in_no_commit_fails_the_request(project):
    before = doubts(project, "1")
    git(project, "add", "evidence")
    git(project, "commit", "--quiet", "--message", "the request")

    assert before == [
        "FAIL evidence/ledger.json and evidence/requests are not as committed: commit them"
    ]
    assert doubts(project, "1") == []
    assert with_request(report(), project, "1")["forgetting"]["verdict"] == "REACHED"


def test_a_ledger_that_names_another_model_or_base_for_the_delta_fails(project, monkeypatch):
    """The audit has worked both out from the delta's own bytes."""
    git(project, "add", "evidence")
    git(project, "commit", "--quiet", "--message", "the request")
    given = report()
    known = {"base": given["base"]["digest"], "model": "a" * 64}
    known |= {"study": given["env"], "method": given["method"]}
    given["changes"] = {**given["changes"], "model": known["model"]}

    def said(**entry: str) -> tuple[str, str]:
        served = {"delta": given["delta"]["sha256"], **known, **entry}
        monkeypatch.setattr(cross_checks, "serving_entry", lambda *asked: served)
        check = next(
            c
            for c in with_request(given, project, "1")["checks"]
            if "delta" in c["text"] and c["name"] == "request"
        )
        return check["result"], check["text"]

    assert said() == ("PASS", "the ledger says that this delta serves 1")
    assert said(model="0" * 64) == (
        "FAIL",
        "the ledger names another model than this delta's for 1",
    )
    assert said(model="0" * 64, base="f" * 64)[1] == (
        "the ledger names another base, model than this delta's for 1"
    )


def test_another_method_or_study_in_the_ledger_is_remarked(project, monkeypatch):
    """As after a study was renamed: the delta decides."""
    given = report()
    served = {"delta": given["delta"]["sha256"], "base": given["base"]["digest"], "model": ""}
    for study, remarked in ((given["env"], False), ("other", True)):
        entry = {**served, "study": study, "method": given["method"]}
        monkeypatch.setattr(cross_checks, "serving_entry", lambda *_, entry=entry: entry)

        texts = [one["text"] for one in with_request(given, project, "1")["checks"]]

        remark = f"the ledger says that {given['method']!r} of 'other' made this delta"
        assert (remark in texts) == remarked


def test_a_request_that_was_opened_after_the_model_was_trained_is_remarked(project):
    """The run of the report began at 22:00 UTC."""
    opened(project, "2", "2026-11-25T22:01:00+00:00")
    git(project, "add", "evidence")
    git(project, "commit", "--quiet", "--message", "the requests")

    [said] = doubts(project, "2")

    assert said.startswith("NOTE opened on 2026-11-25T22:01:00+00:00, after the model was trained")


def test_a_file_that_was_erased_is_told_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def checks() -> Iterator[Check]:
        yield passed("answers", "one")
        (tmp_path / "data/forget_set.jsonl").read_text()

    done = guarded("answers", checks(), SimpleNamespace(why_missing=lambda path: "was erased"))

    missing = "data/forget_set.jsonl was erased: it cannot be computed again"
    assert done == [passed("answers", "one"), failed("answers", missing)]
