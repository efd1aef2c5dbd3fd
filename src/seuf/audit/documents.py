"""Write an audit's documents: report, certificate, bill of materials and statement."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import seuf
from kedro_dvc.files import write_text
from seuf.audit import FAIL
from seuf.audit.report import Report
from seuf.audit.verify import BOM, CERTIFICATE, REPORT
from seuf.inputs import InputError

STATEMENT = "statement.json"


def write_documents(
    report: Report,
    folder: Path,
    confidential: Collection[str],
    key: Path | None,
    issuer: str | None = None,
) -> list[Path]:
    """Write the documents of an audit into a folder and return their paths.

    A failed audit gets only its report and a page that says so; the statement and the bill of an
    earlier audit are removed.

    Args:
        report: The result of `report.audit`.
        folder: Created if it does not exist.
        confidential: Paths of the study's files whose digests must not be published.
        key: Private key that signs the statement.
        issuer: Who answers for the certificate, named in it.

    Raises:
        InputError: If the key cannot be used, or the extra is not installed.
    """
    from seuf.audit.certificate import certificate

    if key is not None and not key.is_file():
        raise InputError(f"{key} is missing: `kedro audit keys FOLDER` makes a pair of keys.")
    report = without_confidential_digests(report, confidential)
    report["issued"] = {"by": issuer, "version": seuf.__version__, "key": _fingerprint(key)}
    texts = {REPORT: _json(report), CERTIFICATE: certificate(report)}
    if report["verdict"] == FAIL:
        for name in (STATEMENT, BOM):
            (folder / name).unlink(missing_ok=True)
    else:
        from seuf.audit.attest import sign, statement
        from seuf.audit.bom import bom

        texts[BOM] = bom(report)
        stated = statement(report, texts)
        texts[STATEMENT] = _json(stated if key is None else sign(stated, key))
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def without_confidential_digests(report: Report, confidential: Collection[str]) -> Report:
    """Return the report without plain digests of confidential files: short texts can be guessed.

    The salted digest of the request stays. The report marks the confidential files that the delta
    was made from; a run may have written further ones, such as passages for the evaluation alone.
    """
    hidden = {"md5": None, "sha256": None, "size": None}
    materials = [one | hidden if one["confidential"] else one for one in report["materials"]]
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


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
