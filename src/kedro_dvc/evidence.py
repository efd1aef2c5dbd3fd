"""What lies in `evidence/`: the records of runs, and the environments that they name, read again.

A record that lacks something, or says what cannot be, is none: whoever reads one may believe that
its times are times and its numbers numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kedro_dvc.files import strict_json

EVIDENCE = "evidence"
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
KEYS = ("node", "started", "seconds", "memory", "commit", "clean", "environment", "outputs")
# of what is read again
KINDS: dict[str, Any] = {
    "node": str,
    "started": str,
    "seconds": int | float,
    "commit": str | None,
    "clean": bool,
    "environment": str,
    "outputs": dict,
}
# and of an environment
OF_MACHINES: dict[str, Any] = {
    "python": str,
    "platform": str,
    "processor": str,
    "cores": int | None,
    "packages": dict,
}
LONGEST = 1e9  # seconds that a run may take: thirty years

Record = dict[str, Any]


def record_path(project: Path, study: str, node: str) -> Path:
    """Return where the record of a node's last run lies."""
    return project / EVIDENCE / study / "runs" / f"{Path(node).name}.json"


def read_record(project: Path, study: str, node: str) -> Record | None:
    """Return the record of a node's last run, with its environment; None if there is none.

    Raises:
        ValueError: If the record cannot be read, lacks something, or its environment is not the one
            it names.
    """
    path = record_path(project, study, node)
    if not path.is_file():
        return None
    record = _whole(path)
    environment = environment_path(project, record["environment"])
    text = environment.read_text(encoding="utf-8") if environment.is_file() else ""
    if digest_of(text) != record["environment"]:
        raise ValueError(f"{os.path.relpath(environment, project)} is not what {path.name} names")
    described = _checked(strict_json(text), OF_MACHINES, environment.name)
    if not all(isinstance(version, str) for version in described["packages"].values()):
        raise ValueError(f"{environment.name} has a package without a version")
    own = {key: value for key, value in record.items() if key not in KEYS}
    if again := own.keys() & described.keys():
        raise ValueError(f"{path.name} tells of {min(again)}, as its environment does")
    return {**record, "environment": {**described, **own}}


def stage_records(project: Path, study: str) -> list[Record]:
    """Return the records of a study's stages that are whole, in the order in which they ran."""
    records = []
    for path in record_path(project, study, "any").parent.glob("*.json"):
        with suppress(ValueError):
            records.append(_whole(path))
    return sorted(records, key=lambda record: (record["started"], record["node"]))


def _whole(path: Path) -> Record:
    """Return what a file records of a run.

    Raises:
        ValueError: If it cannot be read or lacks something.
    """
    record = _checked(strict_json(path.read_text(encoding="utf-8")), KINDS, path.name)
    try:
        zone = datetime.fromisoformat(record["started"]).tzinfo
        datetime.fromisoformat(record["started"]).astimezone(UTC)
    except OverflowError:
        zone = None
    memory = record.get("memory") or {}
    wrong = {
        "time in a zone": zone is None,
        "length of time": isinstance(record["seconds"], bool)
        or not 0 <= record["seconds"] <= LONGEST,
        "memory": not isinstance(memory, dict)
        or not all(isinstance(held, int | float | None) for held in memory.values()),
        "outputs": not all(isinstance(one, str) for one in record["outputs"].values()),
    }
    if any(wrong.values()):
        what = next(name for name in wrong if wrong[name])
        raise ValueError(f"{path.name} has no {what} as it must be")
    return record


def _checked(content: Any, kinds: Mapping[str, Any], name: str) -> Record:
    """Return a file's content if it has these keys of these kinds.

    Raises:
        ValueError: If it has not.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{name} is no record")
    if wrong := [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]:
        raise ValueError(f"{name} has no {wrong[0]} as it must be")
    return content


def environment_path(project: Path, name: str) -> Path:
    """Return where an environment of that name lies."""
    return project / EVIDENCE / "environments" / f"{Path(name).name}.json"


def digest_of(text: str) -> str:
    """Return the name of an environment that says this."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def text_of(facts: Record) -> str:
    """Return a record or an environment as its file has it."""
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"
