"""Requests to forget: who asked for what, when and why, with digests of the texts, never a text.

A name or a phone number is quickly guessed from its plain hash, so a record's digest is an
HMAC-SHA256 under the request's own salt. With the salt anyone can test whether a text was among the
records; without it nobody can. Salts are files of their own, never committed or shared.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from kedro_dvc.evidence import EVIDENCE
from kedro_dvc.files import strict_json, write_text
from kedro_dvc.hashing import sha256s
from seuf.audit import now
from seuf.audit.ledger import (
    LEDGER,
    REVOKED,
    SERVED,
    Entry,
    append_entry,
    locked,
    read_ledger,
    state,
    write_entry,
)
from seuf.inputs import InputError

SALTS = ".salts"
SALT_SIZE = 32  # bytes, the length of a SHA-256
OPENING = ".{}.opening"  # a salt's file until the ledger has its request; no id starts with a dot
REQUESTS = f"{EVIDENCE}/requests"
REPORTED = ("id", "date", "reason", "records", "digest")
BOUNDS = ("forget_at_most", "utility_at_least")  # optional
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Request = dict[str, Any]


def new_salt(project: Path, name: str) -> bytes:
    """Return a new salt, written to a file that only the owner can read and git ignores.

    The file has its temporary name, `OPENING`; `keep_salt` renames it.

    Raises:
        InputError: If a salt of this name exists: overwriting it would make its digests useless.
    """
    folder = project / SALTS
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    if (folder / name).exists():
        raise InputError(f"{SALTS}/{name} exists: choose another id for the request.")
    salt = secrets.token_bytes(SALT_SIZE)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(folder / OPENING.format(name), flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(salt)
    return salt


def keep_salt(project: Path, name: str) -> None:
    """Rename a new salt's file to its final name."""
    folder = project / SALTS
    (folder / OPENING.format(name)).replace(folder / name)


def read_salt(project: Path, name: str) -> bytes:
    """Return the salt of this name.

    Raises:
        InputError: If it is missing or truncated.
    """
    path = project / SALTS / name
    if not path.is_file():
        raise InputError(
            f"{SALTS}/{name} is missing: without its salt nobody can tell what request {name} was "
            "about."
        )
    salt = path.read_bytes()
    if len(salt) != SALT_SIZE:
        raise InputError(f"{SALTS}/{name} is not a salt: {len(salt)} bytes, not {SALT_SIZE}.")
    return salt


def check_id(name: str) -> str:
    """Return the id of a request if it is valid, also as a file name.

    Raises:
        InputError: If it is not.
    """
    if not ID.fullmatch(name) or ".." in name:
        raise InputError(
            f"A request cannot be called {name[:100]!r}: letters, digits, single dots, _ and - "
            "are allowed, at most 100, the first a letter or digit."
        )
    return name


def open_request(
    project: Path, name: str, texts: Sequence[str], *, date: str, **purpose: str | float | None
) -> Request:
    """Write a request with a new salt, the digests of its records, and its entry in the ledger.

    Args:
        project: The project's root.
        name: The request's id.
        texts: The records to forget.
        date: ISO, in UTC.
        purpose: `reason`, the `study` and `method` that are meant to serve it, and `BOUNDS`.

    Raises:
        InputError: If the id is invalid or taken, or a record is empty, or there is none.
    """
    file = _request_file(project, name)
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"Request {name} has no text, or an empty one.")
    with locked(project):
        _finish_openings(project)
        if name in state(read_ledger(project)).status:
            raise InputError(f"Request {name} exists: choose another id.")
        if file.exists():
            raise InputError(
                f"{REQUESTS}/{file.name} exists, though the ledger has no request {name}: remove "
                f"it and {SALTS}/{name}, or choose another id."
            )
        salt = new_salt(project, name)
        lines = "".join(f"{one}\n" for one in sorted(record_digests(salt, texts)))
        request = {"id": name, "date": date, "records": len(texts), "digest": _hmac(salt, lines)}
        request |= {**purpose, "digests_sha256": _sha256(lines.encode())}
        text = json.dumps(request, indent=2, sort_keys=True) + "\n"
        write_text(_digests_file(project, name), lines)
        write_text(file, text)
        entry = {"what": "opened", "request": name, "date": date, "records": len(texts)}
        append_entry(
            project, {**entry, "digest": request["digest"], "file": _sha256(text.encode())}
        )
        keep_salt(project, name)
    return request


def finish_openings(project: Path) -> list[str]:
    """Complete or undo each interrupted opening, and return what was done, a sentence each.

    A request is open once the ledger has its entry: then the salt gets its final name. Otherwise
    the files already written are removed, so that the id is free again.
    """
    if not _unfinished_ids(project):
        return []
    with locked(project):
        return _finish_openings(project)


def _finish_openings(project: Path) -> list[str]:
    return [_finish_opening(project, name) for name in _unfinished_ids(project)]


def _unfinished_ids(project: Path) -> list[str]:
    """Return the ids of openings that are in progress or were interrupted."""
    prefix, suffix = OPENING.split("{}")
    names = [path.name for path in (project / SALTS).glob(OPENING.format("*"))]
    ids = (name.removeprefix(prefix).removesuffix(suffix) for name in names)
    return sorted(one for one in ids if ID.fullmatch(one))


def _finish_opening(project: Path, name: str) -> str:
    salt, digests = project / SALTS / OPENING.format(name), _digests_file(project, name)
    opened = _entries(project, name, "opened")
    if opened:
        lines = digests.read_text(encoding="utf-8") if digests.is_file() else ""
        if _hmac(salt.read_bytes(), lines) == opened[0]["digest"]:
            keep_salt(project, name)
            return (
                f"request {name} was opened before its command was interrupted: "
                f"{opened[0]['records']} records; its salt is {SALTS}/{name}, to be kept apart "
                "and in no commit"
            )
    else:
        for file in (_request_file(project, name), digests):
            for leftover in (file, *file.parent.glob(f"{file.name}.*.tmp")):
                leftover.unlink(missing_ok=True)
    salt.unlink()  # last, so that this function can be interrupted and repeated
    if opened:
        return f"the ledger has another request {name} than the one whose opening was interrupted"
    return f"opening request {name} was interrupted, and nothing is left of it: open it again"


def record_digests(salt: bytes, texts: Iterable[str]) -> list[str]:
    """Return the salted digest of each text, unnormalised."""
    return [_hmac(salt, text) for text in texts]


def read_request(project: Path, name: str) -> Request:
    """Return a request as it was opened.

    Raises:
        InputError: If there is none, or its files differ from the ledger's entry. No later entry
            protects the last one, so the entry's own fields are compared too.
    """
    file, opened = _request_file(project, name), _entries(project, name, "opened")
    if not opened and name in _unfinished_ids(project):
        raise InputError(f"Opening request {name} was interrupted: `kedro request list` mends it.")
    if not opened:
        raise InputError(f"There is no request {name!r}: `kedro request list` lists them all.")
    if not file.is_file():
        raise InputError(f"{REQUESTS}/{name}.json is missing, though {LEDGER} names it.")
    data = file.read_bytes()
    if _sha256(data) != opened[0]["file"]:
        raise InputError(f"{REQUESTS}/{name}.json was changed: {LEDGER} has another digest of it.")
    request = _parsed_request(data, f"{REQUESTS}/{name}.json")
    for key in ("date", "records", "digest"):
        if request[key] != opened[0][key]:
            raise InputError(
                f"{key} of request {name} is {opened[0][key]} in {LEDGER} and {request[key]} in "
                f"{REQUESTS}/{name}.json."
            )
    path = _digests_file(project, name)
    lines = path.read_bytes() if path.is_file() else b""
    if _sha256(lines) != request["digests_sha256"] or len(lines.split()) != request["records"]:
        raise InputError(f"{REQUESTS}/{path.name} is missing or was changed.")
    return request


def _parsed_request(data: bytes, name: str) -> Request:
    """Return a request from its file's content.

    Raises:
        InputError: If a field is missing, a bound is not between 0 and 1, or the date has no zone.
    """
    try:
        request: Request = strict_json(data)
        missing = {*REPORTED, "digests_sha256"} - request.keys()
        bounds = [request[key] for key in BOUNDS if key in request]
        are_shares = all(isinstance(one, int | float) and 0 <= one <= 1 for one in bounds)
        has_zone = datetime.fromisoformat(request["date"]).tzinfo is not None
        if not missing and are_shares and has_zone:
            return request
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise InputError(f"{name} is not a valid request.")


def reported_request(project: Path, name: str) -> Request:
    """Return a request's fields for a report: id, date, reason, records, salted digest, bounds.

    Raises:
        InputError: If there is none, its file was changed, it was revoked, or its salt, if present,
            does not give its digest.
    """
    request = read_request(project, name)
    if state(read_ledger(project)).status[name] == REVOKED:
        raise InputError(f"Request {name} was revoked: no model serves it.")
    if (project / SALTS / name).is_file():
        _salt_and_digests(project, name)
    return {key: request[key] for key in (*REPORTED, *BOUNDS) if key in request}


def without_entry(project: Path) -> list[str]:
    """Return the ids of request files that the ledger does not name."""
    known = state(read_ledger(project)).status
    names = sorted(path.stem for path in (project / REQUESTS).glob("*.json"))
    return [name for name in names if name not in known]


def requests_of_study(project: Path, study: str) -> list[str]:
    """Return the requests that a study is meant to serve and that were not revoked."""
    return [
        name
        for name, status in state(read_ledger(project)).status.items()
        if status != REVOKED and read_request(project, name).get("study") == study
    ]


def serving_entry(project: Path, name: str) -> Entry | None:
    """Return the ledger's entry of the model that serves a request; None if none does."""
    if state(read_ledger(project)).status.get(name) != SERVED:
        return None
    return _entries(project, name, "served")[-1]


def derived_models(project: Path, name: str) -> list[Entry]:
    """Return the ledger's entries of models derived from the one that serves a request."""
    serving = serving_entry(project, name)
    if serving is None:
        return []
    return [
        entry for entry in _entries(project, name, "derived") if entry["model"] == serving["model"]
    ]


def enter_derived(project: Path, serving: Entry, folder: Path, how: str) -> Entry:
    """Enter a model derived from a serving one in the ledger, once; return the entry.

    Args:
        project: The project's root.
        serving: The ledger's entry of the serving model.
        folder: The derived model.
        how: How it was made, such as `export`.
    """
    entry = {"what": "derived", "request": serving["request"], "model": serving["model"]}
    entry |= {"name": folder.name, "how": how, "sha256": sha256s([folder])[folder]}
    for known in _entries(project, serving["request"], "derived"):
        if entry.items() <= known.items():
            return known
    entry["date"] = now()
    write_entry(project, entry)
    return entry


def are_records(project: Path, name: str, texts: Iterable[str]) -> list[bool]:
    """Return for each text whether it was among a request's records.

    Raises:
        InputError: If the salt is missing, or request, digests or salt were changed.
    """
    salt, digests = _salt_and_digests(project, name)
    return [digest in digests for digest in record_digests(salt, texts)]


def count_missing(project: Path, name: str, texts: Iterable[str]) -> int:
    """Return how many of a request's records are not among the texts.

    Raises:
        InputError: If the salt is missing, or request, digests or salt were changed.
    """
    salt, digests = _salt_and_digests(project, name)
    present = set(record_digests(salt, texts))
    return sum(digest not in present for digest in digests)


def _salt_and_digests(project: Path, name: str) -> tuple[bytes, list[str]]:
    request, salt = read_request(project, name), read_salt(project, name)
    lines = _digests_file(project, name).read_text(encoding="utf-8")
    if not hmac.compare_digest(_hmac(salt, lines), request["digest"]):
        raise InputError(f"{SALTS}/{name} is not the salt of request {name}.")
    return salt, lines.split()


def _request_file(project: Path, name: str) -> Path:
    return project / REQUESTS / f"{check_id(name)}.json"


def _digests_file(project: Path, name: str) -> Path:
    return project / REQUESTS / f"{check_id(name)}.digests"


def _entries(project: Path, name: str, what: str) -> list[Entry]:
    return [one for one in read_ledger(project) if (one["what"], one["request"]) == (what, name)]


def _hmac(salt: bytes, text: str) -> str:
    return hmac.new(salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
