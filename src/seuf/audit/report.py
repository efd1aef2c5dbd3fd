"""Audit a method, and write down what was found.

`audit` makes all checks and returns the report, plain JSON, that every document is made of:
statement, bill of materials, certificate. `write_documents` writes them into one folder.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from kedro_dvc.files import write_text
from kedro_dvc.records import commit_of, read_record
from seuf.audit import FAIL, PASS, Check, failed, lineage, passed, results
from seuf.audit.audited import AuditedMethod
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.audit.audited import Stage

NORMAL = 1.96  # standard errors on each side of a 95 % interval
SCORES = {"forget": ("forget_efficacy", "forget"), "retain": ("utility", "utility")}
STATEMENT_FILE, BOM_FILE = "statement.json", "bom.cdx.json"
Report = dict[str, Any]


def audit(audited: AuditedMethod, checkpoint: Path | None = None) -> Report:
    """Return the report of an audit.

    Args:
        audited: The study and its method.
        checkpoint: An exported checkpoint that is compared with base and delta too.

    Raises:
        InputError: If the study has no such method, keeps no deltas, or has not run.
    """
    study = audited.study
    report: Report = {
        "study": study.config["globals"]["study"],
        "env": study.name,
        "method": audited.method,
        "settings": audited.settings,
        "changes": {"tensors": []},
        "experts": [],
    }
    audited.require_delta()
    report |= {"base": {"name": audited.base[0], "digest": None}, "delta": None}
    checks = [one for check in lineage.CHECKS for one in check(audited)]
    checks += _check_model(audited, report, checkpoint)
    checks += _guarded("scores", results.scores(audited))
    commit, clean = commit_of(audited.project)
    report |= {
        "audited": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "clean": clean,
        "seed": study.config["parameters"].get("seed"),
        "parameters": audited.lineage[-1].params,
        "materials": list(_materials(audited)),
        "runs": [
            {**record, "stage": stage.name}
            for stage in audited.stages
            if (record := _record(audited, stage))
        ],
        "scores": _scores(audited),
        "request": None,
    }
    return with_checks(report, checks)


def with_checks(report: Report, checks: Iterable[Check]) -> Report:
    """Return the report with further checks and the verdict; what failed once passes nowhere."""
    every = [*(Check(**check) for check in report.get("checks", [])), *checks]
    failures = {check.name for check in every if check.result == FAIL}
    kept = [one for one in every if one.result != PASS or one.name not in failures]
    return {
        **report,
        "checks": [check._asdict() for check in dict.fromkeys(kept)],
        "verdict": FAIL if failures else PASS,
    }


def with_request(report: Report, project: Path, name: str) -> Report:
    """Return the report with the request that the delta serves, which the ledger has to say.

    Raises:
        InputError: If there is no such request, or it is revoked.
    """
    from seuf.audit.requests import reported_request, serving_entry

    entry, delta = serving_entry(project, name), report["delta"] or {}
    if entry is None or entry["delta"] != delta.get("sha256"):
        check = failed("request", f"the ledger does not say that this delta serves {name}")
    else:
        check = passed("request", f"the ledger says that this delta serves {name}")
    return with_checks({**report, "request": reported_request(project, name)}, [check])


def first_cause(report: Report) -> str | None:
    """Return the text of the first check that failed; None if none did."""
    return next((c["text"] for c in report["checks"] if c["result"] == FAIL), None)


def unlearn_run(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the run that made the delta: the last of its stage; None if none was recorded."""
    # numbered where the methods of a study do not all read the same
    stage = rf"unlearn(-\d+)?@{re.escape(report['method'])}"
    runs = reversed(report.get("runs") or [])
    return next((run for run in runs if re.fullmatch(stage, run["stage"])), None)


def interval(score: Mapping[str, Any], moment: str) -> tuple[float, float] | None:
    """Return the 95 % interval of a score `before` or `after`: 1.96 errors, cut at 0 and 1."""
    value, error = score.get(moment), score.get(f"{moment}_error")
    if not (known(value) and known(error)):
        return None
    return max(0.0, value - NORMAL * error), min(1.0, value + NORMAL * error)


def known(value: Any) -> TypeGuard[float]:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def write_documents(report: Report, folder: Path, key: Path | None) -> list[Path]:
    """Write what others can read and check, and return where.

    An audit that failed gives its report and a page that says so, but nothing that attests.

    Args:
        report: Of `audit`.
        folder: Made if need be.
        key: Private key that signs the statement.

    Raises:
        InputError: If the key cannot be used, or the extra is not installed.
    """
    from seuf.audit.certificate import certificate

    report = without_confidential_digests(report)
    texts = {"audit.json": _json(report), "certificate.html": certificate(report)}
    if report["verdict"] == FAIL:
        for name in (STATEMENT_FILE, BOM_FILE):  # of an earlier audit
            (folder / name).unlink(missing_ok=True)
    else:
        from seuf.audit.attest import sign, statement
        from seuf.audit.bom import bom

        if key is not None and not key.is_file():
            raise InputError(f"{key} is missing: `kedro audit keys FOLDER` makes a pair of keys.")
        made = statement(report)
        texts[STATEMENT_FILE] = _json(made if key is None else sign(made, key))
        texts[BOM_FILE] = bom(report)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def without_confidential_digests(report: Report) -> Report:
    """Return the report without plain digests of confidential files: short ones can be guessed.

    The salted digest of the request stays.
    """
    hidden = {"md5": None, "sha256": None, "size": None}
    materials = [one | hidden if one["confidential"] else one for one in report["materials"]]
    confidential = {one["path"] for one in materials if one["confidential"]}
    runs = [
        {**run, "outputs": {p: d for p, d in run["outputs"].items() if p not in confidential}}
        for run in report["runs"]
    ]
    return {**report, "materials": materials, "runs": runs}


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _check_model(audited: AuditedMethod, report: Report, checkpoint: Path | None) -> list[Check]:
    """Return the checks of the weights, and put into the report what they find."""
    from seuf.audit.exported import check_files
    from seuf.audit.weights import check_weights
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Method

    try:
        path = audited.path("delta")
        delta = Delta.load(audited.project / path)
        digests = audited.digests[path]._asdict()
        report["delta"] = {"path": path, **digests, "base": delta.base}
        report["base"]["digest"] = delta.base
        experts = [(layer, expert) for layer, expert in delta.about.get("experts", [])]
        report["experts"] = [list(one) for one in experts]
        checks = _guarded("method", results.choice(audited, delta))
        method, base = Method.model_validate(audited.settings), audited.base[1]
        of_weights, report["changes"] = check_weights(base, delta, method, experts, checkpoint)
        of_files = check_files(base, checkpoint) if checkpoint else []
        return [*checks, *of_weights, *of_files]
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


def _materials(audited: AuditedMethod) -> Iterator[dict[str, Any]]:
    """Yield all that the delta was made from, by path, with the digests of what is here.

    Of what is no longer here the SHA-256 is the one that the run of its stage has recorded.
    """
    inputs = {path: file for stage in audited.lineage for path, file in stage.deps.items() if file}
    producers = {path: stage for stage in audited.lineage for path in stage.outs}
    for path, file in sorted(inputs.items()):
        here = audited.digests.get(path)
        record = _record(audited, producers[path]) if path in producers and not here else None
        role = "model" if "/06_models/" in path else "data"
        yield {
            "path": path,
            "md5": file.md5,
            "size": file.size,
            "sha256": here.sha256 if here else record and record["outputs"].get(path),
            "role": "code" if path.startswith("src/") else role,
            "confidential": path in audited.confidential,
            "here": here is not None,
        }


def _record(audited: AuditedMethod, stage: Stage) -> dict[str, Any] | None:
    try:
        return read_record(audited.project, audited.study.name, stage.node)
    except (ValueError, KeyError, TypeError):
        return None  # the check of the runs has failed for it


def _scores(audited: AuditedMethod) -> dict[str, Any]:
    """Return the method's scores beside the original's; nothing if they cannot be read."""
    import pandas as pd

    from seuf.reporting.comparison import by_method, original_method

    try:
        table = pd.read_csv(audited.project / audited.path("comparison"))
        rows, scores = by_method(table), audited.read("scores")
        after, original = rows[audited.method], original_method(table)
        before = rows[original] if original else {}
    except (OSError, ValueError, KeyError):
        return {}
    return {
        **{
            part: {
                "before": _number(before.get(name)),
                "before_error": _number(before.get(f"{name}_stderr")),
                "after": _number(after.get(name)),
                "after_error": _number(after.get(f"{name}_stderr")),
                "measure": after[f"{prefix}_measure"],
                "questions": _questions(scores, part, after[f"{prefix}_measure"]),
            }
            for part, (name, prefix) in SCORES.items()
        },
        "chance": _number(after["chance"]),
        "routing_overlap": {part: _number(after[f"routing_overlap_{part}"]) for part in SCORES},
    }


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)  # NaN is no JSON


def _questions(scores: dict[str, Any], part: str, measure: str) -> int:
    """Return how many questions a score of the table is of."""
    from seuf.benchmarks.records import utility_subject

    subject = part if part == "forget" else utility_subject(scores["headline"])
    for measured in ("questions", "produced"):
        scored = scores.get(measured, {}).get(subject, {})
        if scored and scored.get("measure", "accuracy") == measure:
            return int(scored["questions"])
    return sum(kind["questions"] for kind in scores.get("generation", {}).get(subject, {}).values())
