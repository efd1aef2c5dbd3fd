"""What a report tells beside the checks: materials, runs, parameters, scores."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from seuf.audit.subject import Subject
from seuf.kedro_dvc.running.environment import commit_of
from seuf.kedro_dvc.running.records import read_record

if TYPE_CHECKING:
    from seuf.audit.lineage import Stage
    from seuf.moe.deltas import Delta

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


def _asked(found: dict[str, Any], part: str) -> int:
    if part in found.get("questions", {}):
        return int(found["questions"][part]["questions"])
    return sum(kind["questions"] for kind in found.get("generation", {}).get(part, {}).values())
