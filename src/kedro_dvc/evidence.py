"""What lies in `evidence/`: records of runs, the environments that they name, and of erasures.

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
from typing import Any, NamedTuple

from kedro_dvc.files import WorkflowError, strict_json

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
        started = datetime.fromisoformat(record["started"])
        is_time = started.tzinfo is not None and started.astimezone(UTC) is not None
    except OverflowError:
        is_time = False
    memory = record.get("memory") or {}
    wrong = {
        "time in a zone": not is_time,
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


class Erasure(NamedTuple):
    """That outputs were deleted on purpose.

    Attributes:
        date: ISO, with its zone.
        paths: Of the outputs, from the project's root.
        purpose: For whom or what, such as the id of a request; None if that was not said.
    """

    date: str
    paths: tuple[str, ...]
    purpose: str | None


def erasures_file(study: str) -> str:
    """Return where the erasures of a study are recorded, from the project's root."""
    return f"{EVIDENCE}/{study}/erased.json"


def read_erasures(project: Path, study: str) -> list[Erasure]:
    """Return the erasures of a study that were recorded, the oldest first.

    Raises:
        WorkflowError: If the file is no record of erasures.
    """
    path = project / erasures_file(study)
    if not path.is_file():
        return []
    try:
        content = strict_json(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError
        found = [Erasure(one["date"], tuple(one["paths"]), one["for"]) for one in content]
        for date, paths, purpose in found:
            said = [*paths, *([] if purpose is None else [purpose])]
            dated = datetime.fromisoformat(date).tzinfo is not None
            if not dated or not all(isinstance(one, str) for one in said):
                raise ValueError
    except (ValueError, KeyError, TypeError):
        raise WorkflowError(f"{erasures_file(study)} is no record of erasures.") from None
    return found


def environment_path(project: Path, name: str) -> Path:
    """Return where an environment of that name lies."""
    return project / EVIDENCE / "environments" / f"{Path(name).name}.json"


def digest_of(text: str) -> str:
    """Return the name of an environment that says this."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def text_of(facts: Any) -> str:
    """Return a record, or anything else that is committed as JSON, as its file has it."""
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"
