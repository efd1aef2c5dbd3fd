"""What was made, from what and how, as an in-toto statement with SLSA provenance.

https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. The statement is plain JSON;
the library of in-toto only checks it, as a message of its own would turn every integer to a float.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from seuf.audit.events import finished_on, run_id, started_on
from seuf.errors import InputError

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:seuf:unlearning:v1"
BUILDER = "urn:seuf:kedro-dvc"
MODEL_DIGEST = "SHA-256 over the SHA-256 of each tensor of the checkpoint, not of a file"
WITHHELD = "withheld: a small set of records could be guessed from its digest"
Report = Mapping[str, Any]


def statement(report: Report) -> dict[str, Any]:
    """Return the statement about the delta of an audited method.

    Raises:
        InputError: If there is no delta, or a value that JSON or the specification does not know.
    """
    delta = report["delta"]
    if not delta:
        raise InputError(
            f"There is no delta of {report['method']} that a statement could be about."
        )
    made = {
        "_type": STATEMENT,
        "subject": [{"name": delta["path"], "digest": {"sha256": delta["sha256"]}}],
        "predicateType": PROVENANCE,
        "predicate": {"buildDefinition": _definition(report), "runDetails": _details(report)},
    }
    try:
        return checked(json.loads(json.dumps(made, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(f"No statement can be made of this report: {error}") from error


def checked(made: Any) -> dict[str, Any]:
    """Return a statement that keeps to the specifications of in-toto and SLSA.

    Raises:
        ValueError: If it does not.
    """
    from google.protobuf.json_format import ParseDict, ParseError
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    try:
        message = ParseDict(made, Message())
        Statement.copy_from_pb(message).validate()
        if message.predicate_type != PROVENANCE:
            raise ValueError(f"predicate type is {message.predicate_type!r}, not {PROVENANCE}")
        ParseDict(made["predicate"], Provenance())
    except (ParseError, AttributeError, TypeError) as error:
        raise ValueError(str(error)) from error
    return made


def _definition(report: Report) -> dict[str, Any]:
    asked = ("study", "method", "settings", "seed", "parameters", "request")
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {key: report.get(key) for key in asked},
        "internalParameters": {"experts": report.get("experts")},
        "resolvedDependencies": list(_dependencies(report)),
    }


def _dependencies(report: Report) -> Iterator[dict[str, Any]]:
    """Yield the base model, the code's commit, and each material."""
    base = report["base"]
    notes = {"digestOf": MODEL_DIGEST, "model": base["name"]}
    digest = {"digest": {"sha256": base["digest"]}} if base["digest"] else {}
    yield {"name": "base_model", **digest, "annotations": notes}
    if report.get("commit"):
        commit = {"gitCommit": report["commit"]}
        yield {"name": "code", "digest": commit, "annotations": {"clean": report["clean"]}}
    yield from (_material(one, report.get("request")) for one in report.get("materials") or [])


def _material(material: Mapping[str, Any], request: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a material with its digests, or, if it is confidential, its name alone."""
    notes: dict[str, Any] = {"role": material["role"]}
    if material["confidential"]:
        salted = {"saltedDigest": "externalParameters.request.digest"} if request else {}
        notes |= {"confidential": True, "digest": WITHHELD} | salted
        return {"name": material["path"], "annotations": notes}
    digest = {kind: material[kind] for kind in ("sha256", "md5") if material.get(kind)}
    notes |= {"size": material["size"], "here": material["here"]}
    known = {"digest": digest} if digest else {}
    return {"name": material["path"], **known, "annotations": notes}


def _details(report: Report) -> dict[str, Any]:
    run = unlearn_run(report)
    metadata = {"metadata": _metadata(report["study"], run)} if run else {}
    return {"builder": {"id": BUILDER}, **metadata, "byproducts": list(_byproducts(report))}


def unlearn_run(report: Report) -> Mapping[str, Any] | None:
    """Return the run that made the delta: the last of its stage; None if none was recorded."""
    stage = f"unlearn@{report['method']}"
    return next((run for run in reversed(_runs(report)) if run["stage"] == stage), None)


def _runs(report: Report) -> list[Mapping[str, Any]]:
    return report.get("runs") or []


def _metadata(study: str, run: Mapping[str, Any]) -> dict[str, str]:
    return {
        "invocationId": f"urn:uuid:{run_id(study, run)}",
        "startedOn": _zulu(started_on(run)),
        "finishedOn": _zulu(finished_on(run)),
    }


def _zulu(time: datetime) -> str:
    """Return a time in whole seconds; the exact duration is among the byproducts."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _byproducts(report: Report) -> Iterator[dict[str, Any]]:
    """Yield how each stage ran, then what the audit found.

    The runs' outputs stay out: among them are the digests of confidential files.
    """
    kept = ("started", "seconds", "commit", "clean", "environment")
    for run in _runs(report):
        notes = {key: run[key] for key in kept if key in run}
        yield {"name": f"run {run['stage']}", "annotations": notes}
    found = {key: report[key] for key in ("verdict", "audited", "checks")}
    yield {"name": "audit", "annotations": found}
