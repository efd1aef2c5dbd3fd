"""The whole audit of a method: all checks, and the report that all pages tell of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seuf.audit import files, results
from seuf.audit.check import FAIL, PASS, Check, failed, passed
from seuf.audit.facts import facts, facts_of_delta
from seuf.audit.subject import Subject
from seuf.errors import InputError

Report = dict[str, Any]


def audit(subject: Subject, checkpoint: Path | None = None) -> Report:
    """Return the report of an audit.

    Args:
        subject: The study and its method.
        checkpoint: An exported checkpoint that is held against base and delta too.

    Raises:
        InputError: If the study has no such method, keeps no deltas, or has not run.
    """
    study = subject.study
    report: Report = {"study": study.config["globals"]["study"], "env": study.name}
    report |= {"method": subject.method}
    report |= {"settings": subject.settings, "changes": {"tensors": []}, "experts": []}
    subject.require_delta()
    report |= {"base": {"name": subject.base[0], "digest": None}, "delta": None}
    checks = [check for look in files.CHECKS for check in look(subject)]
    checks += _model(subject, report, checkpoint)
    checks += _guarded("scores", results.scores(subject))
    return with_checks(report | facts(subject), checks)


def with_checks(report: Report, checks: Iterable[Check]) -> Report:
    """Return the report with further checks and the verdict; what failed once passes nowhere."""
    every = [*(Check(**check) for check in report.get("checks", [])), *checks]
    kept = [line for line in every if line.result != PASS or not _fails(line.name, every)]
    verdict = FAIL if any(line.result == FAIL for line in kept) else PASS
    return {
        **report,
        "checks": [line._asdict() for line in dict.fromkeys(kept)],
        "verdict": verdict,
    }


def with_request(report: Report, project: Path, name: str) -> Report:
    """Return the report with the request that the delta serves, which the ledger has to say.

    Raises:
        InputError: If there is no such request, or it is revoked.
    """
    from seuf.audit.requests import request_of, served_by

    entry, delta = served_by(project, name), report["delta"] or {}
    if entry is None or entry["delta"] != delta.get("sha256"):
        check = failed("request", f"the ledger does not say that this delta serves {name}")
    else:
        check = passed("request", f"the ledger says that this delta serves {name}")
    return with_checks({**report, "request": request_of(project, name)}, [check])


def first_cause(report: Report) -> str | None:
    """Return what failed first, in words; None if nothing did."""
    return next((c["text"] for c in report["checks"] if c["result"] == FAIL), None)


def _fails(name: str, checks: Iterable[Check]) -> bool:
    return any(check.name == name and check.result == FAIL for check in checks)


def _model(subject: Subject, report: Report, checkpoint: Path | None) -> list[Check]:
    """Return the checks of the weights, and put what they find into the report."""
    from seuf.audit.exported import files as others
    from seuf.audit.weights import weights
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Method

    try:
        delta = Delta.load(subject.project / subject.path("delta"))
        report |= {"delta": facts_of_delta(subject, delta)}
        report["base"]["digest"] = delta.base
        experts = [(layer, expert) for layer, expert in delta.about.get("experts", [])]
        report["experts"] = [list(one) for one in experts]
        checks = _guarded("method", results.choice(subject, delta))
        method, base = Method.model_validate(subject.settings), subject.base[1]
        found, report["changes"] = weights(base, delta, method, experts, checkpoint)
        more = others(base, checkpoint) if checkpoint else []
        return [*checks, *found, *more]
    except (ValueError, OSError, KeyError, TypeError) as error:  # InputError is a ValueError
        return [failed("weights", str(error))]


def _guarded(name: str, checks: Iterator[Check]) -> list[Check]:
    """Return the checks; a file that is missing or not what it should be is a failure."""
    done: list[Check] = []
    try:
        done.extend(checks)
    except (InputError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        done.append(failed(name, f"cannot be read: {type(error).__name__} {error}"))
    return done
