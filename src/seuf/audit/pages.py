"""What an audit leaves behind: report, statement, bill of materials, certificate, in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seuf.audit.check import FAIL
from seuf.errors import InputError
from seuf.kedro_dvc.files import write_text

STATEMENT = "statement.json"


def write_pages(report: dict[str, Any], folder: Path, key: Path | None) -> list[Path]:
    """Write what others can read and check, and return where.

    An audit that failed gives its report and a page that says so, but nothing that attests.

    Args:
        report: Of `seuf.audit.examine.audit`.
        folder: Made if need be.
        key: Private key that signs the statement.

    Raises:
        InputError: If the key cannot be used.
    """
    from seuf.audit.certificate import certificate_html, certificate_markdown

    report = without_hidden(report)
    texts = {
        "audit.json": _json(report),
        "certificate.html": certificate_html(report),
        "certificate.md": certificate_markdown(report),
    }
    if report["verdict"] != FAIL:
        texts |= _attested(report, key)
    else:
        for name in (STATEMENT, "bom.cdx.json"):  # of an earlier audit
            (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def without_hidden(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report without plain digests of what is confidential: a short list can be guessed.

    The salted digest of the request stays.
    """
    hidden = {"md5": None, "sha256": None, "size": None}
    materials = [one | hidden if one["confidential"] else one for one in report["materials"]]
    secret = {one["path"] for one in materials if one["confidential"]}
    runs = [
        {**run, "outputs": {p: d for p, d in run["outputs"].items() if p not in secret}}
        for run in report["runs"]
    ]
    return {**report, "materials": materials, "runs": runs}


def _attested(report: dict[str, Any], key: Path | None) -> dict[str, str]:
    from seuf.audit.bom import bom
    from seuf.audit.signing import sign
    from seuf.audit.statement import statement

    if key is not None and not key.is_file():
        raise InputError(f"{key} is missing: `kedro audit keys FOLDER` makes a pair of keys.")
    made = statement(report)
    return {
        STATEMENT: _json(made if key is None else sign(made, key)),
        "bom.cdx.json": bom(report),
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
