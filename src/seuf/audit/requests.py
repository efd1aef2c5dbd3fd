"""Requests to forget: who asked for what, when and why, and digests of what was asked, no text.

A name or a phone number is soon guessed from its hash, so each record's digest is an HMAC-SHA256
under the request's own salt (`seuf.audit.salts`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seuf.audit.ledger import read_ledger, state, write_entry
from seuf.audit.salts import new_salt, read_salt
from seuf.audit.serving import REVOKED, SERVED
from seuf.errors import InputError
from seuf.kedro_dvc.files import write_text
from seuf.kedro_dvc.running.records import EVIDENCE

FOLDER = f"{EVIDENCE}/requests"
TOLD = ("id", "date", "reason", "records", "digest")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Request = dict[str, Any]


def check_id(name: str) -> str:
    """Return the id of a request, which is a file's name too, if it can be one.

    Raises:
        InputError: If it cannot.
    """
    if not _ID.fullmatch(name) or ".." in name:
        raise InputError(
            f"A request cannot be called {name[:100]!r}: letters, digits, single dots, _ and - "
            "are allowed, at most 100, the first a letter or digit."
        )
    return name


def open_request(
    project: Path, name: str, texts: Sequence[str], *, date: str, **facts: str | None
) -> Request:
    """Write a request with a new salt, the digests of its records, and its entry in the ledger.

    Args:
        project: The project's root.
        name: Its id.
        texts: What is to be forgotten, record by record.
        date: ISO, in UTC.
        facts: `reason`, and the `study` and `method` that are meant to serve it.

    Raises:
        InputError: If the id cannot be one or exists, or there is nothing to forget.
    """
    if _file(project, name).exists() or name in state(read_ledger(project)).status:
        raise InputError(f"Request {name} exists: choose another id.")
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"Request {name} holds no text, or an empty one.")
    salt = new_salt(project, name)
    lines = "".join(f"{one}\n" for one in sorted(record_digests(salt, texts)))
    request = {"id": name, "date": date, "records": len(texts), "digest": _hmac(salt, lines)}
    request |= {**facts, "digests_sha256": _sha256(lines)}
    written = json.dumps(request, indent=2, sort_keys=True) + "\n"
    write_text(_digests_file(project, name), lines)
    write_text(_file(project, name), written)
    told = {"records": len(texts), "digest": request["digest"], "file": _sha256(written)}
    write_entry(project, {"what": "opened", "request": name, "date": date, **told})
    return request


def record_digests(salt: bytes, texts: Iterable[str]) -> list[str]:
    """Return the salted digest of each text, to the letter."""
    return [_hmac(salt, text) for text in texts]


def read_request(project: Path, name: str) -> Request:
    """Return a request as it was opened.

    Raises:
        InputError: If there is none, or its file is not the one that the ledger tells of.
    """
    opened = _entries(project, check_id(name), "opened")
    if not opened or not _file(project, name).is_file():
        raise InputError(f"There is no request {name!r}: `kedro request list` tells those there.")
    written = _file(project, name).read_text(encoding="utf-8")
    if _sha256(written) != opened[0]["file"]:
        raise InputError(f"{FOLDER}/{name}.json is not what was opened: the ledger has another.")
    return json.loads(written)


def request_of(project: Path, name: str) -> Request:
    """Return what a report tells of a request: id, date, reason, records and salted digest.

    Raises:
        InputError: If there is none, its file was changed, or it was revoked.
    """
    request = read_request(project, name)
    if state(read_ledger(project)).status[name] == REVOKED:
        raise InputError(f"Request {name} was revoked: no model serves it.")
    return {key: request[key] for key in TOLD}


def served_by(project: Path, name: str) -> dict[str, Any] | None:
    """Return the entry of the ledger that tells what serves a request; None if nothing does."""
    if state(read_ledger(project)).status.get(name) != SERVED:
        return None
    return _entries(project, name, "served")[-1]


def held(project: Path, name: str, texts: Iterable[str]) -> list[bool]:
    """Tell of each text whether it was among a request's records.

    Raises:
        InputError: If the salt is gone, or request, digests or salt are not those of then.
    """
    request, salt = read_request(project, name), read_salt(project, name)
    digests = set(_digests(project, request, salt))
    return [digest in digests for digest in record_digests(salt, texts)]


def lacking(project: Path, name: str, texts: Iterable[str]) -> int:
    """Return how many of a request's records are not among the texts.

    Raises:
        InputError: If the salt is gone, or request, digests or salt are not those of then.
    """
    request, salt = read_request(project, name), read_salt(project, name)
    there = set(record_digests(salt, texts))
    return sum(digest not in there for digest in _digests(project, request, salt))


def _digests(project: Path, request: Request, salt: bytes) -> list[str]:
    path = _digests_file(project, request["id"])
    lines = path.read_text(encoding="utf-8") if path.is_file() else ""
    if _sha256(lines) != request["digests_sha256"]:
        raise InputError(f"{FOLDER}/{path.name} is missing, or not what was written with it.")
    if not hmac.compare_digest(_hmac(salt, lines), request["digest"]):
        raise InputError(f"The salt is not that of request {request['id']}.")
    return lines.split()


def _entries(project: Path, name: str, what: str) -> list[dict[str, Any]]:
    ledger = read_ledger(project)
    return [one for one in ledger if (one["what"], one["request"]) == (what, name)]


def _file(project: Path, name: str) -> Path:
    return project / FOLDER / f"{check_id(name)}.json"


def _digests_file(project: Path, name: str) -> Path:
    return project / FOLDER / f"{check_id(name)}.digests"


def _hmac(salt: bytes, text: str) -> str:
    return hmac.new(salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
