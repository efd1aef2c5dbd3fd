"""Audit a method: make all checks in order and report the findings.

`CHECKS` lists the checks. `audit` makes them and returns the report, plain JSON, from which
`documents` makes the documents. Three checks are optional: `--replay` (`replay`), `--request` and
`--since` (`cross_checks`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kedro_dvc.dependencies import commit_of
from kedro_dvc.disk import listed
from kedro_dvc.evidence import record_path
from kedro_dvc.files import WorkflowError, git
from kedro_dvc.hashing import sha256s
from seuf.audit import FAIL, PASS, Check, failed, lineage, now, printable, results, weights
from seuf.audit.audited import AuditedMethod, upstream
from seuf.audit.exported import files_of_model
from seuf.audit.forgetting_verdict import forgetting, scores_of
from seuf.audit.ledger import LEDGER, entry_digest, read_ledger
from seuf.inputs import InputError

# All checks of an audit, in order. A check that ends in an error fails under its key.
# docs/auditing.md lists more forgeries, and those that no check catches.
CHECKS: dict[str, Callable[[AuditedMethod], Iterator[Check]]] = {
    # Proves that code, configuration, lock and records are as committed, to the byte.
    # Catches an uncommitted edit, also one that git was configured not to see.
    "commit": lineage.check_commit,
    # Proves that dvc.yaml is what the project makes, and dvc.lock a run of this dvc.yaml.
    # Catches a command, path or parameter edited in dvc.lock, and a stage removed from it.
    "lock": lineage.check_lock,
    # Proves that each stage read what an earlier one had written, from the data to the delta.
    # Catches an input replaced between two stages.
    "lineage": lineage.check_edges,
    # Proves that every file that the stages read or wrote has the MD5 and size in dvc.lock.
    # Catches any changed byte, also where DVC trusts a file by its time and size.
    "bytes": lineage.check_bytes,
    # Proves that the objects in DVC's cache have the digests that are their names.
    # Catches an object replaced there, which `dvc checkout` would bring into the workspace.
    "cache": lineage.check_cache,
    # Proves that every output has the SHA-256 that its run recorded.
    # Catches an output forged together with its MD5 in dvc.lock, and an impossible record.
    "runs": lineage.check_runs,
    # Proves that each run's commit has the code and parameters that its stage has now.
    # Catches code edited together with dvc.lock, and a record with another commit.
    "origin": lineage.check_origin,
    # Proves nothing, but notes runs with other threads than configured, or on several machines.
    "machines": lineage.note_machines,
    # Proves that the delta was made with the study's settings and seed, from the experts that the
    # recorded routing selects. Catches a delta of another method, seed or expert.
    "method": results.check_method,
    # Proves that the base is the delta's, that only what the method may change differs from it, and
    # that an exported checkpoint equals base and delta to the bit.
    # Catches a swapped base, and any other changed weight.
    "weights": weights.check_model,
    # Proves that scores, tables and report are those of the recorded answers.
    # Catches an edited score, standard error, table row or headline.
    "scores": results.check_scores,
}
Report = dict[str, Any]


def audit(audited: AuditedMethod) -> Report:
    """Return the report of an audit.

    Args:
        audited: The study and its method.

    Raises:
        InputError: If the study has no such method, keeps no deltas, or has not run.
    """
    study = audited.study
    report: Report = {
        "study": study.config["globals"]["study"],
        "env": study.name,
        "method": audited.method,
        "settings": audited.settings,
    }
    audited.require_delta()
    report["base"] = {"name": audited.base[0], "digest": None}
    before, head = audited.stamps(), commit_of(audited.project)[0]
    checks = [
        one for name, check in CHECKS.items() for one in guarded(name, check(audited), audited)
    ]
    try:
        report |= _model_facts(audited)
    except Exception as error:
        checks.append(_broken("weights", error, audited))
        report |= {"delta": None, "experts": [], "changes": {"tensors": []}}
    commit, clean = commit_of(audited.project)
    checks += _written_meanwhile(before, audited.stamps())
    if commit != head:
        checks.append(failed("commit", "another commit was checked out during the audit"))
    report |= {
        "audited": now(),
        "commit": commit,
        "clean": clean,
        "repository": repository_of(audited.project),
        "evidence": list(_evidence(audited)),
        "seed": study.config["parameters"].get("seed"),
        "parameters": audited.lineage[-1].params,
        "materials": list(_materials(audited)),
        "runs": [
            {**record, "stage": stage.name}
            for stage in audited.stages
            if (record := lineage.record_of(audited, stage))
        ],
        "scores": scores_of(audited),
        "request": None,
    }
    return with_checks({**report, "forgetting": forgetting(report)}, checks)


def guarded(name: str, checks: Iterator[Check], audited: AuditedMethod) -> list[Check]:
    """Return the checks; an error among them becomes a failure of the given name."""
    finished: list[Check] = []
    try:
        finished.extend(checks)
    except Exception as error:  # a forged file can fail in any way
        finished.append(_broken(name, error, audited))
    return finished


def _broken(name: str, error: Exception, audited: AuditedMethod) -> Check:
    """Return the failure of a check that ended in an error."""
    if isinstance(error, FileNotFoundError):
        path = os.path.relpath(error.filename or ".")
        return failed(name, f"{path} {audited.why_missing(path)}: it cannot be computed again")
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return failed(name, text)
    return failed(name, f"cannot be read: {type(error).__name__} {text}")


def _written_meanwhile(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]
) -> Iterator[Check]:
    """Yield a failure if files were written between the checks, each of which reads them anew."""

    def is_same(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
        was_linked = old[:3] == new[:3] and old[3] != new[3]  # by DVC, or by a backup
        return old == new or was_linked

    moved = before.keys() ^ after.keys()
    files = moved | {one for one in before.keys() - moved if not is_same(before[one], after[one])}
    if files:
        yield failed("bytes", f"{listed(files)} written during the audit: audit again")


def with_checks(report: Report, checks: Iterable[Check]) -> Report:
    """Return the report with further checks and the verdict.

    A check that failed anywhere drops its passes of the same name.
    """
    combined = [*(Check(**check) for check in report.get("checks", [])), *map(printable, checks)]
    failures = {check.name for check in combined if check.result == FAIL}
    kept = [check for check in combined if check.result != PASS or check.name not in failures]
    return {
        **report,
        "checks": [check._asdict() for check in dict.fromkeys(kept)],
        "verdict": FAIL if failures else PASS,
    }


def first_cause(report: Report) -> str | None:
    """Return the text of the first check that failed; None if none did."""
    return next((c["text"] for c in report["checks"] if c["result"] == FAIL), None)


def unlearn_run(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the run that made the delta: the last of its stage; None if none was recorded."""
    # the stage is numbered if the study's methods read different inputs
    stage = rf"unlearn(-\d+)?@{re.escape(report['method'])}"
    runs = reversed(report["runs"])
    return next((run for run in runs if re.fullmatch(stage, run["stage"])), None)


def repository_of(project: Path) -> str | None:
    """Return the URL of git's remote `origin`, without user name and token; None without one."""
    try:
        url = git(project, "remote", "get-url", "origin").strip()
    except WorkflowError:
        return None
    if "://" not in url:  # a folder of this machine, or user@host:path
        return url.partition("@")[2] or None
    scheme, _, rest = url.partition("://")
    return None if scheme == "file" else f"{scheme}://{rest.rpartition('@')[2]}"


def _model_facts(audited: AuditedMethod) -> Report:
    """Return the report's fields on delta, base model, experts and changes."""
    path, delta = audited.path("delta"), audited.delta
    facts = {**audited.digests[path]._asdict(), "base": delta.base, "tensors": len(delta.tensors)}
    name, folder = audited.base
    return {
        "delta": {"path": path, **facts},
        "base": {"name": name, "digest": delta.base, "files": files_of_model(folder)},
        "experts": [list(one) for one in audited.experts],
        "changes": audited.weights.changes,
    }


def _evidence(audited: AuditedMethod) -> Iterator[dict[str, Any]]:
    """Yield the digests of the stages in the lock, their records, the scores and the ledger.

    Lock and ledger may grow, so only the method's stages and the ledger's last entry are hashed. A
    missing file is left out: a check has failed for it.
    """
    lock = os.path.relpath(audited.lock, audited.project)
    scored = upstream([audited.path("scores")], audited.recorded)
    stages = {stage.name: stage for stage in (*audited.lineage, *scored)}  # not those that report
    recorded = {name: stage._asdict() for name, stage in stages.items()}
    text = json.dumps(recorded, sort_keys=True, default=str)
    yield {"path": f"{lock}: stages", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    project, study = audited.project, audited.study.name
    paths = [record_path(project, study, one.node) for one in stages.values()]
    paths.append(audited.project / audited.path("scores"))
    for path, sha256 in sha256s(paths).items():
        yield {"path": os.path.relpath(path, audited.project), "sha256": sha256}
    if ledger := read_ledger(audited.project):
        yield {"path": LEDGER, "sha256": entry_digest(ledger[-1]), "entries": len(ledger)}


def _materials(audited: AuditedMethod) -> Iterator[dict[str, Any]]:
    """Yield every input of the delta's lineage, by path, with its digests.

    The SHA-256 of a missing file is the one that the run of its stage recorded.
    """
    inputs = {path: file for stage in audited.lineage for path, file in stage.deps.items() if file}
    producers = {path: stage for stage in audited.lineage for path in stage.outs}
    for path, file in sorted(inputs.items()):
        here = audited.digests.get(path)
        sha256 = here.sha256 if here else None
        if here is None and path in producers:
            record = lineage.record_of(audited, producers[path])
            sha256 = record["outputs"].get(path) if record else None
        role = "model" if "/06_models/" in path else "data"
        yield {
            "path": path,
            "md5": file.md5,
            "size": file.size,
            "sha256": sha256,
            "role": "code" if path.startswith("src/") else role,
            "confidential": path in audited.confidential,
            "here": here is not None,
        }
