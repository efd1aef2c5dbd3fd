"""What a report tells beside the checks: materials, runs, parameters, scores.

The whole audit of a method: all checks, and the report that all pages tell of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from kedro_dvc.records import commit_of, read_record
from seuf.audit import lineage as files
from seuf.audit import results
from seuf.audit.subject import FAIL, PASS, Check, Subject, failed, passed
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.audit.subject import Stage
    from seuf.moe.deltas import Delta

NORMAL = 1.96  # standard errors on each side of a 95 % interval
Report = dict[str, Any]


def facts(subject: Subject) -> Report:
    """Return what is known of how the method's delta came to be, and how it scores."""
    commit, clean = commit_of(subject.project)
    unlearned = subject.lineage[-1]
    return {
        "audited": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "clean": clean,
        "seed": subject.study.config["parameters"].get("seed"),
        "parameters": unlearned.params,
        "materials": list(_materials(subject)),
        "runs": list(_runs(subject)),
        "scores": _scores(subject),
        "request": None,
    }


def facts_of_delta(subject: Subject, delta: Delta) -> dict[str, Any]:
    """Return where the delta lies, its digests, and the digest of its base."""
    path = subject.path("delta")
    return {"path": path, **subject.digests[path]._asdict(), "base": delta.base}


def _materials(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield all that the delta was made from, by path, with the digests of what is here."""
    held = {p: h for stage in subject.lineage for p, h in stage.deps.items() if h is not None}
    written = {path: stage for stage in subject.lineage for path in stage.outs}
    for path, expected in sorted(held.items()):
        there = subject.digests.get(path)
        yield {
            "path": path,
            "md5": expected.md5,
            "size": expected.size,
            "sha256": there.sha256 if there else _known(subject, written.get(path), path),
            "role": _role(path),
            "confidential": path in subject.confidential,
            "here": there is not None,
        }


def _known(subject: Subject, stage: Stage | None, path: str) -> str | None:
    """Return the SHA-256 that a run has recorded of what is no longer here."""
    record = _record(subject, stage) if stage else None
    return record["outputs"].get(path) if record else None


def _role(path: str) -> str:
    if path.startswith("src/"):
        return "code"
    return "model" if "/06_models/" in path else "data"


def _runs(subject: Subject) -> Iterator[dict[str, Any]]:
    for stage in subject.walked:
        if record := _record(subject, stage):
            yield {**record, "stage": stage.name}


def _record(subject: Subject, stage: Stage) -> dict[str, Any] | None:
    try:
        return read_record(subject.project, subject.study.name, stage.node)
    except (ValueError, KeyError, TypeError):
        return None  # a check has said so


def _scores(subject: Subject) -> dict[str, Any]:
    """Return what the certificate tells of the scores; nothing if they cannot be read."""
    import pandas as pd

    from seuf.reporting.comparison import by_method, original_method

    try:
        table = pd.read_csv(subject.project / subject.path("comparison"))
        rows, found = by_method(table), subject.read("scores")
        after, original = rows[subject.method], original_method(table)
        before = rows[original] if original else None
    except (OSError, ValueError, KeyError):
        return {}
    parts = {"forget": "forget_efficacy", "retain": "utility"}
    told = {part: _beside(before, after, name) for part, name in parts.items()}
    for part, one in told.items():
        one |= {"measure": after[f"{'forget' if part == 'forget' else 'utility'}_measure"]}
        one |= {"questions": _asked(found, part)}
    overlap = {part: _number(after[f"routing_overlap_{part}"]) for part in parts}
    return {**told, "chance": _number(after["chance"]), "routing_overlap": overlap}


def _beside(before: dict[str, Any] | None, after: dict[str, Any], name: str) -> dict[str, Any]:
    rows = {"before": before or {}, "after": after}
    return {
        key: _number(row.get(column))
        for what, row in rows.items()
        for key, column in ((what, name), (f"{what}_error", f"{name}_stderr"))
    }


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)  # NaN is no JSON


def interval(score: Mapping[str, Any], moment: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a score `before` or `after`: 1.96 errors, cut at 0 and 1."""
    value, error = score.get(moment), score.get(f"{moment}_error")
    if not (known(value) and known(error)):
        return None
    return max(0.0, value - NORMAL * error), min(1.0, value + NORMAL * error)


def known(value: Any) -> TypeGuard[float]:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def _asked(found: dict[str, Any], part: str) -> int:
    if part in found.get("questions", {}):
        return int(found["questions"][part]["questions"])
    return sum(kind["questions"] for kind in found.get("generation", {}).get(part, {}).values())


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
