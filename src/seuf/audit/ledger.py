"""The ledger: requests that were opened, served and revoked, in the order in which it happened.

Each entry carries the digest of the one before it. What they come to is `seuf.audit.serving`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seuf.audit.serving import Entry, State, after
from seuf.errors import InputError
from seuf.kedro_dvc.files import write_text
from seuf.kedro_dvc.running.records import EVIDENCE

LEDGER = f"{EVIDENCE}/ledger.json"

SOME = str | None
COMMON = {"what": str, "request": str, "date": str, "previous": SOME}
MODELS = {"delta": str, "base": str, "model": str}
FIELDS: dict[str, dict[str, Any]] = {
    "opened": {**COMMON, "records": int, "digest": str, "file": str},
    "served": {
        **COMMON,
        **MODELS,
        "study": str,
        "method": str,
        "starts": bool,  # a chain of its own
        "covered": bool | None,  # by the forget set; None where it or the salt was gone
    },
    "revoked": {**COMMON, "reason": str},
}


def read_ledger(project: Path) -> list[Entry]:
    """Return the entries; none if there is no ledger yet.

    Raises:
        InputError: If the file is no ledger, or an entry was edited or removed.
    """
    path = project / LEDGER
    if not path.is_file():
        return []
    try:
        ledger = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{LEDGER} is not JSON: {error}") from error
    if not isinstance(ledger, list):
        raise InputError(f"{LEDGER} is no list of entries.")
    check(ledger)
    return ledger


def write_entry(project: Path, entry: Entry) -> State:
    """Append an entry to the ledger, if it can be; return what the ledger then comes to.

    Raises:
        InputError: If what the entry says cannot have happened.
    """
    ledger = appended(read_ledger(project), entry)
    now = state(ledger)
    write_text(project / LEDGER, json.dumps(ledger, indent=1, sort_keys=True) + "\n")
    return now


def appended(ledger: Sequence[Entry], entry: Entry) -> list[Entry]:
    """Return the ledger with one entry more.

    Raises:
        InputError: If what the entry says cannot have happened.
    """
    after(state(ledger), entry)
    return [*ledger, {**entry, "previous": entry_digest(ledger[-1]) if ledger else None}]


def entry_digest(entry: Entry) -> str:
    """Return the SHA-256 of an entry as JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(
        json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def check(ledger: Sequence[Entry]) -> None:
    """Look whether each entry is whole and follows the one before it.

    The last one is vouched for by nothing here, nor that it is the last one: the commit does that.

    Raises:
        InputError: If one is not, or does not; with its number.
    """
    before, previous = "none", None
    for number, entry in enumerate(ledger, 1):
        if not _whole(entry):
            raise InputError(f"{LEDGER}: entry {number} is not as an entry must be.")
        label = f"entry {number} ({entry['what']} {entry['request']})"
        if entry["previous"] != previous:
            raise InputError(
                f"{LEDGER}: {label} was written after another entry than {before}, which stands "
                f"before it: one was edited or removed. `git log -p {LEDGER}` tells which."
            )
        before, previous = label, entry_digest(entry)


def state(ledger: Sequence[Entry]) -> State:
    """Return what the ledger comes to.

    Raises:
        InputError: If an entry was edited or removed, or says what cannot have happened.
    """
    check(ledger)
    now = State()
    for number, entry in enumerate(ledger, 1):
        try:
            now = after(now, entry)
        except InputError as error:
            raise InputError(f"{LEDGER}: entry {number}: {error}") from error
    return now


def _whole(entry: Any) -> bool:
    fields = FIELDS.get(str(entry.get("what"))) if isinstance(entry, dict) else None
    return (
        fields is not None
        and entry.keys() == fields.keys()
        and all(isinstance(entry[name], kind) for name, kind in fields.items())
    )
