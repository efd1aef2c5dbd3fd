"""Compare a report with a statement that was signed before and kept elsewhere.

Whoever can rewrite the commits of a repository can rewrite data, lock, records and scores so that
they agree. They cannot make an earlier signature fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kedro_dvc.files import strict_json
from seuf.audit import Check, failed, passed
from seuf.audit.attest import EVIDENCE, open_envelope
from seuf.audit.ledger import LEDGER, entry_digest, read_ledger
from seuf.audit.verify import MODEL
from seuf.inputs import InputError

NAME = "since"


def check_since(report: Mapping[str, Any], project: Path, file: Path, key: Path) -> Check:
    """Return whether delta, model, lock, records, scores and ledger are as they were signed.

    The ledger may have grown. A statement that cannot be read, or is not that key's, has failed.

    Args:
        report: Of `audit`.
        project: The project's root.
        file: The earlier statement, signed.
        key: Public key of who signed it.
    """
    try:
        content = strict_json(file.read_text(encoding="utf-8"))
        stated = open_envelope(content, key)
        predicate = stated["predicate"]
        signed = predicate["buildDefinition"]["externalParameters"]
        if (signed["study"], signed["method"]) != (report["study"], report["method"]):
            return failed(NAME, f"{file.name} is about {signed['method']} of {signed['study']}")
        wrong = list(_differences(stated, report, project))
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return failed(NAME, f"{file.name}: {error}")
    if wrong:
        return failed(NAME, f"{', '.join(wrong)}: not as signed in {file.name}")
    return passed(NAME, f"delta, lock, records, scores and ledger are as signed in {file.name}")


def _differences(
    stated: Mapping[str, Any], report: Mapping[str, Any], project: Path
) -> Iterator[str]:
    now = {one["path"]: one["sha256"] for one in report["evidence"]}
    now |= {report["delta"]["path"]: report["delta"]["sha256"], MODEL: report["changes"]["model"]}
    dependencies = stated["predicate"]["buildDefinition"]["resolvedDependencies"]
    evidence = [d for d in dependencies if (d.get("annotations") or {}).get("role") == EVIDENCE]
    for one in (*stated["subject"], *evidence):
        name, digest = one["name"], one["digest"]["sha256"]
        if name == LEDGER:
            ledger, number = read_ledger(project), int(one["annotations"]["entries"])
            if len(ledger) < number or entry_digest(ledger[number - 1]) != digest:
                yield name
        elif name in now and now[name] != digest:
            yield name
        elif name not in now and one in evidence:
            yield f"{name} (gone)"
    signed = {one["name"] for one in (*stated["subject"], *evidence)}
    yield from (f"{name} (was not signed)" for name in sorted(now.keys() - signed - {LEDGER}))
