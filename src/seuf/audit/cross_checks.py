"""Compare an audit with two sources beyond the study: the ledger and an earlier statement.

Whoever can rewrite a repository's commits can rewrite data, lock, records and scores so that they
agree. They cannot make an earlier signature match.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from kedro_dvc.files import WorkflowError, git, strict_json
from seuf.audit import Check, failed, noted, passed
from seuf.audit.attest import EVIDENCE, open_envelope
from seuf.audit.events import started_on
from seuf.audit.forgetting_verdict import forgetting
from seuf.audit.ledger import LEDGER, entry_digest, read_ledger
from seuf.audit.report import Report, unlearn_run, with_checks
from seuf.audit.requests import REQUESTS, derived_models, reported_request, serving_entry
from seuf.audit.verify import MODEL
from seuf.inputs import InputError

DERIVED = ("name", "how", "sha256", "date")  # a derived model's fields in a report


def with_request(report: Report, project: Path, name: str) -> Report:
    """Return the report with the request that the delta serves and the checks of the request.

    Raises:
        InputError: If there is no such request, or it is revoked.
    """
    derived = [{key: entry[key] for key in DERIVED} for entry in derived_models(project, name)]
    report = {**report, "request": reported_request(project, name), "derived": derived}
    report["forgetting"] = forgetting(report)
    return with_checks(report, _check_request(report, project, name))


def _check_request(report: Report, project: Path, name: str) -> Iterator[Check]:
    """Check that the ledger says that this delta serves the request.

    Catches another delta, base or model than the ledger's, and an uncommitted ledger.
    """
    entry, delta = serving_entry(project, name), report["delta"] or {}
    if entry is None or entry["delta"] != delta.get("sha256"):
        yield failed("request", f"the ledger does not say that this delta serves {name}")
    else:
        digests = {"base": report["base"]["digest"], "model": report["changes"].get("model")}
        wrong = [key for key, digest in digests.items() if digest and entry[key] != digest]
        if wrong:
            text = f"the ledger names another {', '.join(wrong)} than this delta's for {name}"
            yield failed("request", text)
        else:
            yield passed("request", f"the ledger says that this delta serves {name}")
    paths = ["--", LEDGER, REQUESTS]
    try:
        changed = git(project, "status", "--porcelain", "--untracked-files=all", "-z", *paths)
        ignored = git(project, "ls-files", "--others", "--ignored", "--exclude-standard", *paths)
    except WorkflowError:  # then the check `commit` has failed too
        changed = ignored = ""
    if changed or ignored:
        yield failed("request", f"{LEDGER} and {REQUESTS} are not as committed: commit them")
    run, opened = unlearn_run(report), report["request"]["date"]
    if run is not None and datetime.fromisoformat(opened) > started_on(run):
        yield noted("request", f"opened on {opened}, after the model was trained for it")
    if entry and (entry["method"], entry["study"]) != (report["method"], report["env"]):
        made_by = f"{entry['method']!r} of {entry['study']!r}"  # the study may have been renamed
        yield noted("request", f"the ledger says that {made_by} made this delta")


def check_since(report: Mapping[str, Any], project: Path, file: Path, key: Path) -> Check:
    """Check that delta, model, lock, records, scores and ledger are as they were signed.

    The ledger may have grown. A statement that cannot be read or that the key did not sign fails.

    Args:
        report: The result of `audit`.
        project: The project's root.
        file: The earlier statement, signed.
        key: Public key of its signer.
    """
    try:
        stated = open_envelope(strict_json(file.read_text(encoding="utf-8")), key)
        signed = stated["predicate"]["buildDefinition"]["externalParameters"]
        if (signed["study"], signed["method"]) != (report["study"], report["method"]):
            return failed("since", f"{file.name} is about {signed['method']} of {signed['study']}")
        wrong = list(_differences(stated, report, project))
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        return failed("since", f"{file.name}: {error}")
    if wrong:
        return failed("since", f"{', '.join(wrong)}: not as signed in {file.name}")
    return passed("since", f"delta, lock, records, scores and ledger are as signed in {file.name}")


def _differences(
    stated: Mapping[str, Any], report: Mapping[str, Any], project: Path
) -> Iterator[str]:
    """Yield the name of everything that differs from the statement, is gone, or was not signed."""
    present = {one["path"]: one["sha256"] for one in report["evidence"]}
    present[report["delta"]["path"]] = report["delta"]["sha256"]
    present[MODEL] = report["changes"]["model"]
    dependencies = stated["predicate"]["buildDefinition"]["resolvedDependencies"]
    evidence = [d for d in dependencies if (d.get("annotations") or {}).get("role") == EVIDENCE]
    for one in (*stated["subject"], *evidence):
        name, digest = one["name"], one["digest"]["sha256"]
        if name == LEDGER:
            ledger, number = read_ledger(project), int(one["annotations"]["entries"])
            if len(ledger) < number or entry_digest(ledger[number - 1]) != digest:
                yield name
        elif name in present and present[name] != digest:
            yield name
        elif name not in present and one in evidence:
            yield f"{name} (gone)"
    signed = {one["name"] for one in (*stated["subject"], *evidence)}
    yield from (f"{name} (was not signed)" for name in sorted(present.keys() - signed - {LEDGER}))
