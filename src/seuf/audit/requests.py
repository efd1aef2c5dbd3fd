"""Requests to forget: who asked for what, when and why, and digests of the texts, never a text.

A name or a phone number is soon guessed from its hash, so each record's digest is an HMAC-SHA256
under the request's own salt. With the salt one can find out whether a text was among the records;
without it, never. Salts lie in files of their own, apart from all that is committed or shared.
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
SALT_SIZE = 32  # bytes, as SHA-256 has
OPENING = ".{}.opening"  # a salt's file until the ledger has its request; no id begins with a dot
REQUESTS = f"{EVIDENCE}/requests"
REPORTED = ("id", "date", "reason", "records", "digest")
BOUNDS = ("forget_at_most", "utility_at_least")  # where they were declared
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Request = dict[str, Any]


def new_salt(project: Path, name: str) -> bytes:
    """Return a new salt, in a file that the owner alone can read and git ignores: `OPENING`.

    `keep_salt` gives it its name.

    Raises:
        InputError: If there is one of this name: what was salted with it would be lost.
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
    """Give a new salt the name by which it is read from now on."""
    folder = project / SALTS
    (folder / OPENING.format(name)).replace(folder / name)


def read_salt(project: Path, name: str) -> bytes:
    """Return the salt of this name.

    Raises:
        InputError: If it is gone, or cut short.
    """
    path = project / SALTS / name
    if not path.is_file():
        raise InputError(
            f"{SALTS}/{name} is not here: without its salt nobody can tell what request {name} "
            "was about."
        )
    salt = path.read_bytes()
    if len(salt) != SALT_SIZE:
        raise InputError(f"{SALTS}/{name} is no salt: it has {len(salt)} bytes, not {SALT_SIZE}.")
    return salt


def check_id(name: str) -> str:
    """Return the id of a request, which is a file's name too, if it can be one.

    Raises:
        InputError: If it cannot.
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
        name: Its id.
        texts: What is to be forgotten, record by record.
        date: ISO, in UTC.
        purpose: `reason`, the `study` and `method` that are meant to serve it, and `BOUNDS`.

    Raises:
        InputError: If the id cannot be one or exists, or there is nothing to forget.
    """
    file = _request_file(project, name)
    if not texts or not all(text.strip() for text in texts):
        raise InputError(f"Request {name} holds no text, or an empty one.")
    with locked(project):
        _finish_openings(project)
        if name in state(read_ledger(project)).status:
            raise InputError(f"Request {name} exists: choose another id.")
        if file.exists():
            raise InputError(
                f"{REQUESTS}/{file.name} exists, though the ledger has no request {name}: remove "
                f"it, and {SALTS}/{name}, or choose another id."
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
    """Complete or undo each opening that was cut off, and return in words what was done.

    A request is open from its entry in the ledger on. What was written before that for one which
    never got there is removed, so that its id is free; the salt gets its name if it did.
    """
    if not _cut_off(project):
        return []
    with locked(project):
        return _finish_openings(project)


def _finish_openings(project: Path) -> list[str]:
    return [_finish_opening(project, name) for name in _cut_off(project)]


def _cut_off(project: Path) -> list[str]:
    """Return the ids whose opening is at work, or was cut off."""
    before, after = OPENING.split("{}")
    names = [path.name for path in (project / SALTS).glob(OPENING.format("*"))]
    ids = (name.removeprefix(before).removesuffix(after) for name in names)
    return sorted(one for one in ids if ID.fullmatch(one))


def _finish_opening(project: Path, name: str) -> str:
    begun, digests = project / SALTS / OPENING.format(name), _digests_file(project, name)
    opened = _entries(project, name, "opened")
    if opened:
        lines = digests.read_text(encoding="utf-8") if digests.is_file() else ""
        if _hmac(begun.read_bytes(), lines) == opened[0]["digest"]:
            keep_salt(project, name)
            return (
                f"request {name} was opened before its command was cut off: {opened[0]['records']} "
                f"records; its salt is {SALTS}/{name}, which stays apart and in no commit"
            )
    else:
        for file in (_request_file(project, name), digests):
            for one in (file, *file.parent.glob(f"{file.name}.*.tmp")):
                one.unlink(missing_ok=True)
    begun.unlink()  # last: until then this can be done again
    if opened:
        return f"the ledger has another request {name} than the one whose opening was cut off"
    return f"opening request {name} was cut off, and nothing is left of it: open it again"


def record_digests(salt: bytes, texts: Iterable[str]) -> list[str]:
    """Return the salted digest of each text, to the letter."""
    return [_hmac(salt, text) for text in texts]


def read_request(project: Path, name: str) -> Request:
    """Return a request as it was opened.

    Raises:
        InputError: If there is none, or its files are not those in the ledger. Nothing in the
            ledger follows the last entry, so what it says itself is compared too.
    """
    file, opened = _request_file(project, name), _entries(project, name, "opened")
    if not opened and name in _cut_off(project):
        raise InputError(f"Opening request {name} was cut off: `kedro request list` mends that.")
    if not opened:
        raise InputError(f"There is no request {name!r}: `kedro request list` lists them all.")
    if not file.is_file():
        raise InputError(f"{REQUESTS}/{name}.json is missing, which {LEDGER} has.")
    data = file.read_bytes()
    if _sha256(data) != opened[0]["file"]:
        raise InputError(f"{REQUESTS}/{name}.json is not what was opened: the ledger has another.")
    try:
        request = strict_json(data)
        lacking = {*REPORTED, "digests_sha256"} - request.keys()
        bounds = [request[key] for key in BOUNDS if key in request]
        shares = all(isinstance(one, int | float) and 0 <= one <= 1 for one in bounds)
        dated = datetime.fromisoformat(request["date"]).tzinfo is not None
        if lacking or not shares or not dated:
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{REQUESTS}/{name}.json is no request.") from None
    for key in ("date", "records", "digest"):
        if request[key] != opened[0][key]:
            raise InputError(
                f"{LEDGER}: {key} of request {name} is {opened[0][key]} there and {request[key]} "
                f"in {REQUESTS}/{name}.json."
            )
    path = _digests_file(project, name)
    lines = path.read_bytes() if path.is_file() else b""
    if _sha256(lines) != request["digests_sha256"] or len(lines.split()) != request["records"]:
        raise InputError(f"{REQUESTS}/{path.name} is missing, or not what was written with it.")
    return request


def reported_request(project: Path, name: str) -> Request:
    """Return what a report contains of a request: id, date, reason, records and salted digest.

    Raises:
        InputError: If there is none, its file was changed, it was revoked, or its salt, if that is
            here, does not make its digest.
    """
    request = read_request(project, name)
    if state(read_ledger(project)).status[name] == REVOKED:
        raise InputError(f"Request {name} was revoked: no model serves it.")
    if (project / SALTS / name).is_file():
        _salt_and_digests(project, name)
    return {key: request[key] for key in (*REPORTED, *BOUNDS) if key in request}


def without_entry(project: Path) -> list[str]:
    """Return the requests whose file is there though the ledger does not have them."""
    known = state(read_ledger(project)).status
    there = sorted(path.stem for path in (project / REQUESTS).glob("*.json"))
    return [name for name in there if name not in known]


def requests_of_study(project: Path, study: str) -> list[str]:
    """Return the requests of the ledger, but for those revoked, that a study is meant to serve."""
    found = []
    for name, status in state(read_ledger(project)).status.items():
        if status != REVOKED and read_request(project, name).get("study") == study:
            found.append(name)
    return found


def serving_entry(project: Path, name: str) -> Entry | None:
    """Return the entry of the ledger with the model that serves a request; None if nothing does."""
    if state(read_ledger(project)).status.get(name) != SERVED:
        return None
    return _entries(project, name, "served")[-1]


def derived_models(project: Path, name: str) -> list[Entry]:
    """Return the entries of the ledger with what was made of the model that serves a request."""
    serving = serving_entry(project, name)
    made = _entries(project, name, "derived")
    return [one for one in made if serving is not None and one["model"] == serving["model"]]


def enter_derived(project: Path, serving: Entry, folder: Path, how: str) -> Entry:
    """Enter in the ledger what was made of the model that serves a request; return the entry.

    The same folder is entered once.

    Args:
        project: The project's root.
        serving: The entry of the ledger by which the model serves.
        folder: What was made.
        how: Such as `export`.
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
    """Return of each text whether it was among a request's records.

    Raises:
        InputError: If the salt is gone, or request, digests or salt are not those of then.
    """
    salt, digests = _salt_and_digests(project, name)
    return [digest in digests for digest in record_digests(salt, texts)]


def count_missing(project: Path, name: str, texts: Iterable[str]) -> int:
    """Return how many of a request's records are not among the texts.

    Raises:
        InputError: If the salt is gone, or request, digests or salt are not those of then.
    """
    salt, digests = _salt_and_digests(project, name)
    present = set(record_digests(salt, texts))
    return sum(digest not in present for digest in digests)


def _salt_and_digests(project: Path, name: str) -> tuple[bytes, list[str]]:
    request, salt = read_request(project, name), read_salt(project, name)
    lines = _digests_file(project, name).read_text(encoding="utf-8")
    if not hmac.compare_digest(_hmac(salt, lines), request["digest"]):
        raise InputError(f"The salt is not that of request {name}.")
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
