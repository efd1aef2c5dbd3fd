"""Audit a method, and write down what was found.

`audit` makes all checks and returns the report, plain JSON, that every document is made of:
statement, bill of materials, certificate. `write_documents` writes them into one folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from kedro_dvc.dependencies import commit_of
from kedro_dvc.disk import listed
from kedro_dvc.evidence import record_path
from kedro_dvc.files import WorkflowError, git, write_text
from kedro_dvc.hashing import sha256s
from seuf.audit import FAIL, PASS, Check, failed, lineage, noted, now, passed, printable, results
from seuf.audit.audited import AuditedMethod, upstream
from seuf.audit.verify import BOM, CERTIFICATE, REPORT
from seuf.inputs import InputError

NORMAL = 1.96  # standard errors on each side of a 95 % interval
# of a forgetting that was measured, the worst last
REACHED, NOT_SHOWN, NOT_REACHED, NOT_JUDGED = "REACHED", "NOT SHOWN", "NOT REACHED", "NOT JUDGED"
# what a request may declare: the part of the scores that it bounds, and on which side
THRESHOLDS = {"forget_at_most": ("forget", 1), "utility_at_least": ("retain", -1)}
SCORES = {"forget": ("forget_efficacy", "forget"), "retain": ("utility", "utility")}
STATEMENT_FILE = "statement.json"
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
    before, head = audited.stamps(), commit_of(audited.project)[0]
    checks = [
        one
        for check in lineage.CHECKS
        for one in guarded(check.__name__, check(audited), audited.why_missing)
    ]
    checks += _check_model(audited, report, checkpoint)
    scored = results.scores(audited, report["experts"], (report["delta"] or {}).get("tensors"))
    checks += guarded("scores", scored, audited.why_missing)
    checks += _written_meanwhile(before, audited.stamps())
    commit, clean = commit_of(audited.project)
    if commit != head:
        checks.append(failed("commit", "another commit was checked out while it was audited"))
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
        "scores": _scores(audited),
        "request": None,
    }
    return with_checks({**report, "forgetting": forgetting(report)}, checks)


def _written_meanwhile(
    before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]
) -> Iterator[Check]:
    """Yield a failure if files were written to between the checks, which each read them anew."""

    def same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        linked = one[:3] == other[:3] and one[3] != other[3]  # DVC, or a backup, made a link
        return one == other or linked

    gone = before.keys() ^ after.keys()
    files = gone | {name for name in before.keys() - gone if not same(before[name], after[name])}
    if files:
        yield failed("bytes", f"{listed(files)} written to while it was audited: audit it again")


def with_checks(report: Report, checks: Iterable[Check]) -> Report:
    """Return the report with further checks and the verdict; what failed once passes nowhere."""
    every = [*(Check(**check) for check in report.get("checks", [])), *map(printable, checks)]
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
    from seuf.audit.requests import derived_models, reported_request, serving_entry

    entry, delta = serving_entry(project, name), report["delta"] or {}
    if entry is None or entry["delta"] != delta.get("sha256"):
        check = failed("request", f"the ledger does not say that this delta serves {name}")
    elif other := _of_another_model(report, entry):
        check = failed("request", f"the ledger names another {other} than this delta's for {name}")
    else:
        check = passed("request", f"the ledger says that this delta serves {name}")
    kept = ("name", "how", "sha256", "date")
    derived = [{key: one[key] for key in kept} for one in derived_models(project, name)]
    report = {**report, "request": reported_request(project, name), "derived": derived}
    checks = [check, *_doubts_about_request(report, project)]
    said = entry and (entry["method"], entry["study"])
    if said and said != (report["method"], report["env"]):  # as after a study was renamed
        text = "the ledger names {!r} of {!r}, which made this delta".format(*said)
        checks.append(noted("request", text))
    return with_checks({**report, "forgetting": forgetting(report)}, checks)


def _of_another_model(report: Report, entry: Mapping[str, Any]) -> str:
    """Return what of a delta's model, as far as it was worked out, the ledger has otherwise."""
    known = {"base": report["base"]["digest"], "model": (report["changes"] or {}).get("model")}
    return ", ".join(what for what, digest in known.items() if digest and entry[what] != digest)


def _doubts_about_request(report: Report, project: Path) -> Iterator[Check]:
    """Yield what speaks against a request's place in the ledger, and when it was opened."""
    from seuf.audit.events import started_on
    from seuf.audit.ledger import LEDGER
    from seuf.audit.requests import REQUESTS

    paths = ["--", LEDGER, REQUESTS]
    try:
        changed = git(project, "status", "--porcelain", "--untracked-files=all", "-z", *paths)
        ignored = git(project, "ls-files", "--others", "--ignored", "--exclude-standard", *paths)
    except WorkflowError:  # the check of the commit has failed for it
        changed = ignored = ""
    if changed or ignored:
        yield failed("request", f"{LEDGER} and {REQUESTS} are not as committed: commit them")
    run, opened = unlearn_run(report), report["request"]["date"]
    if run is not None and datetime.fromisoformat(opened) > started_on(run):
        yield noted("request", f"opened on {opened}, after the model was trained for it")


def forgetting(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether the scores keep to what the request declared, and in words how they do.

    A bound is kept if the whole 95 % interval keeps it, and not shown to be kept if only the score
    itself does, or if the base model forgot as much before. Of several bounds the worst counts.
    """
    request, scores, found = report.get("request") or {}, report.get("scores") or {}, []
    for name, (part, side) in THRESHOLDS.items():
        bound, score = request.get(name), scores.get(part) or {}
        if bound is None:
            continue
        value, within = score.get("after"), interval(score, "after")
        if not known(value) or side * value > side * bound:
            verdict = NOT_REACHED
        else:
            far = None if within is None else within[1 if side > 0 else 0]
            verdict = NOT_SHOWN if far is None or side * far > side * bound else REACHED
        before = score.get("before") if side > 0 else None
        already = known(before) and before <= bound
        if already and verdict == REACHED:
            verdict = NOT_SHOWN
        shown = f"{value:.3f}" if known(value) else "not measured"
        around = f" ({within[0]:.3f} to {within[1]:.3f})" if within else ""
        words = name.replace("_", " ")
        told = f"{words} {bound:g} was declared: {shown}{around}"
        found.append((verdict, f"{told}, and {before:.3f} before" if already else told))
    if not found:
        why = "no threshold was declared" if request else "no request declares what is enough"
        return {"verdict": NOT_JUDGED, "text": why}
    order = (REACHED, NOT_SHOWN, NOT_REACHED)
    worst = max((verdict for verdict, _ in found), key=order.index)
    return {"verdict": worst, "text": "; ".join(text for _, text in found)}


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


def write_documents(
    report: Report, folder: Path, key: Path | None, issuer: str | None = None
) -> list[Path]:
    """Write what others can read and check, and return where.

    An audit that failed gives its report and a page that says so, but nothing that attests.

    Args:
        report: Of `audit`.
        folder: Made if need be.
        key: Private key that signs the statement.
        issuer: Who answers for it, as the certificate names them.

    Raises:
        InputError: If the key cannot be used, or the extra is not installed.
    """
    import seuf
    from seuf.audit.certificate import certificate

    if key is not None and not key.is_file():
        raise InputError(f"{key} is missing: `kedro audit keys FOLDER` makes a pair of keys.")
    report = without_confidential_digests(report)
    report["issued"] = {"by": issuer, "version": seuf.__version__, "key": _fingerprint(key)}
    texts = {REPORT: _json(report), CERTIFICATE: certificate(report)}
    if report["verdict"] == FAIL:
        for name in (STATEMENT_FILE, BOM):  # of an earlier audit
            (folder / name).unlink(missing_ok=True)
    else:
        from seuf.audit.attest import sign, statement
        from seuf.audit.bom import bom

        texts[BOM] = bom(report)
        made = statement(report, texts)
        texts[STATEMENT_FILE] = _json(made if key is None else sign(made, key))
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


def _fingerprint(key: Path | None) -> str | None:
    if key is None:
        return None
    from seuf.audit.attest import fingerprint

    return fingerprint(key)


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


def _evidence(audited: AuditedMethod) -> Iterator[dict[str, Any]]:
    """Yield the digests of the stages in the lock, of their records, the scores and the ledger.

    Of the lock only the method's own stages count, of the ledger the last entry: both go on. What
    is not there is left out: a check has failed for it.
    """
    from seuf.audit.ledger import LEDGER, entry_digest, read_ledger

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


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _check_model(audited: AuditedMethod, report: Report, checkpoint: Path | None) -> list[Check]:
    """Return the checks of the weights, and put into the report what they find."""
    from seuf.audit.exported import check_files, files_of_model, files_without_digest
    from seuf.audit.weights import check_weights
    from seuf.moe.deltas import Delta
    from seuf.unlearning.settings import Method

    try:
        path = audited.path("delta")
        delta = Delta.load(audited.project / path)
        digests = audited.digests[path]._asdict()
        report["delta"] = {"path": path, **digests, "base": delta.base}
        report["delta"]["tensors"] = len(delta.tensors)
        report["base"] |= {"digest": delta.base, "files": files_of_model(audited.base[1])}
        experts = [(layer, expert) for layer, expert in delta.about.get("experts", [])]
        report["experts"] = [list(one) for one in experts]
        checks = guarded("method", results.choice(audited, delta), audited.why_missing)
        method, base = Method.model_validate(audited.settings), audited.base[1]
        of_weights, report["changes"] = check_weights(base, delta, method, experts, checkpoint)
        of_files = check_files(base, checkpoint) if checkpoint else []
        return [*checks, *of_weights, *files_without_digest(base), *of_files]
    except (ValueError, OSError) as error:  # InputError is a ValueError
        return [failed("weights", str(error))]
    except Exception as error:  # as in `guarded`
        return [failed("weights", f"{type(error).__name__} {error}")]


def guarded(
    name: str,
    checks: Iterator[Check],
    why_missing: Callable[[str], str] = lambda path: "is missing",
) -> list[Check]:
    """Return the checks; a file that is missing or not what it should be is a failure.

    Args:
        name: Of the check that fails then.
        checks: As they are made.
        why_missing: Returns in words what became of a file.
    """
    done: list[Check] = []
    try:
        done.extend(checks)
    except FileNotFoundError as error:
        path = os.path.relpath(error.filename or ".")
        done.append(failed(name, f"{path} {why_missing(path)}: it cannot be worked out again"))
    except Exception as error:  # what was tampered with can be wrong in any way
        text = " ".join(f"{type(error).__name__} {error}".split())
        done.append(failed(name, f"cannot be read: {text}"))
    return done


def _materials(audited: AuditedMethod) -> Iterator[dict[str, Any]]:
    """Yield all that the delta was made from, by path, with the digests of what is here.

    Of what is no longer here the SHA-256 is the one that the run of its stage has recorded.
    """
    inputs = {path: file for stage in audited.lineage for path, file in stage.deps.items() if file}
    producers = {path: stage for stage in audited.lineage for path in stage.outs}
    for path, file in sorted(inputs.items()):
        here = audited.digests.get(path)
        record = (
            lineage.record_of(audited, producers[path]) if path in producers and not here else None
        )
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


def _scores(audited: AuditedMethod) -> dict[str, Any]:
    """Return the method's scores beside the original's; nothing if they cannot be read."""
    import pandas as pd

    from seuf.reporting.comparison import by_method, original_method

    try:
        table = pd.read_csv(audited.project / audited.path("comparison"))
        rows, scores = by_method(table), audited.read("scores")
        after, original = rows[audited.method], original_method(table)
        before = rows[original] if original else {}
        found = {
            part: {
                "before": _number(before.get(name)),
                "before_error": _number(before.get(f"{name}_stderr")),
                "after": _number(after.get(name)),
                "after_error": _number(after.get(f"{name}_stderr")),
                "measure": after[f"{prefix}_measure"],
                "questions": _questions(scores, part, after[f"{prefix}_measure"]),
            }
            for part, (name, prefix) in SCORES.items()
        }
        overlap = {part: _number(after[f"routing_overlap_{part}"]) for part in SCORES}
        return {**found, "chance": _number(after["chance"]), "routing_overlap": overlap}
    except Exception:  # as in `guarded`, by which a check has failed for it
        return {}


def _number(value: Any) -> float | None:
    return float(value) if known(value) else None  # JSON has no NaN


def _questions(scores: dict[str, Any], part: str, measure: str) -> int:
    """Return how many questions a score of the table is of."""
    from seuf.benchmarks.records import utility_subject

    subject = part if part == "forget" else utility_subject(scores["headline"])
    for measured in ("questions", "produced"):
        scored = scores.get(measured, {}).get(subject, {})
        if scored and scored.get("measure", "accuracy") == measure:
            return int(scored["questions"])
    return sum(kind["questions"] for kind in scores.get("generation", {}).get(subject, {}).values())
