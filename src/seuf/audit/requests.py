"""Salts of requests, each in a file of its own, apart from all that is committed or shared.

With its salt a request's digests can be told from those of a guessed text; without it, never.

Requests to forget: who asked for what, when and why, and digests of what was asked, no text.

A name or a phone number is soon guessed from its hash, so each record's digest is an HMAC-SHA256
under the request's own salt (`seuf.audit.requests`).

The ledger: requests that were opened, served and revoked, in the order in which it happened.

Each entry carries the digest of the one before it. What they come to is `seuf.audit.requests`'s.

Which model serves which requests, as the entries of a ledger make it, one after the other.

Models are told by their digests. A *chain* is a base model and the models made of it, each of the
one before it to serve one request more; its last model is the current one, and serves all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kedro_dvc.files import write_text
from kedro_dvc.records import EVIDENCE
from seuf.inputs import InputError

FOLDER = ".salts"
SIZE = 32  # bytes, as SHA-256 has


def new_salt(project: Path, name: str) -> bytes:
    """Return a new salt, which lies in a file that the owner alone can read.

    Raises:
        InputError: If there is one of this name: what was salted with it would be lost.
    """
    folder = _folder(project)
    salt = secrets.token_bytes(SIZE)
    try:
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"{FOLDER}/{name} exists: choose another id for the request.") from error
    with os.fdopen(file, "wb") as opened:
        os.fchmod(file, 0o600)
        opened.write(salt)
    return salt


def read_salt(project: Path, name: str) -> bytes:
    """Return the salt of this name.

    Raises:
        InputError: If it is gone, or cut short.
    """
    path = project / FOLDER / name
    if not path.is_file():
        raise InputError(
            f"{FOLDER}/{name} is not here: without its salt nobody can tell what request {name} "
            "was about."
        )
    salt = path.read_bytes()
    if len(salt) != SIZE:
        raise InputError(f"{FOLDER}/{name} is no salt: it has {len(salt)} bytes, not {SIZE}.")
    return salt


def _folder(project: Path) -> Path:
    """Return the folder, which git leaves alone and nobody else can enter."""
    folder = project / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    return folder


REQUESTS = f"{EVIDENCE}/requests"
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
        raise InputError(f"{REQUESTS}/{name}.json is not what was opened: the ledger has another.")
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
        raise InputError(f"{REQUESTS}/{path.name} is missing, or not what was written with it.")
    if not hmac.compare_digest(_hmac(salt, lines), request["digest"]):
        raise InputError(f"The salt is not that of request {request['id']}.")
    return lines.split()


def _entries(project: Path, name: str, what: str) -> list[dict[str, Any]]:
    ledger = read_ledger(project)
    return [one for one in ledger if (one["what"], one["request"]) == (what, name)]


def _file(project: Path, name: str) -> Path:
    return project / REQUESTS / f"{check_id(name)}.json"


def _digests_file(project: Path, name: str) -> Path:
    return project / REQUESTS / f"{check_id(name)}.digests"


def _hmac(salt: bytes, text: str) -> str:
    return hmac.new(salt, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


LEDGER = f"{EVIDENCE}/ledger.json"
LOCK = ".ledger.lock"  # there while a command writes to the ledger
PATIENCE = 10.0  # seconds that a command waits for another one

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
        InputError: If what the entry says cannot have happened, or another command keeps writing.
    """
    with _locked(project):
        ledger = appended(read_ledger(project), entry)
        now = state(ledger)
        write_text(project / LEDGER, json.dumps(ledger, indent=1, sort_keys=True) + "\n")
    return now


@contextmanager
def _locked(project: Path) -> Iterator[None]:
    """Keep other commands from writing between our reading and our writing."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.close(os.open(project / LOCK, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                raise InputError(
                    f"{LOCK} exists: another command writes to the ledger. If none does, one was "
                    "killed: remove it."
                ) from None
            time.sleep(0.02)
    try:
        yield
    finally:
        (project / LOCK).unlink(missing_ok=True)


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


OPEN, SERVED, AGAIN, REVOKED = "open", "served", "to be served again", "revoked"
Entry = dict[str, Any]


class Link(NamedTuple):
    """A request, and the model that was made to serve it."""

    request: str
    model: str


@dataclass(frozen=True)
class Chain:
    """Models made one of the other, the first of them of a base model."""

    base: str
    links: tuple[Link, ...] = ()

    @property
    def current(self) -> str:
        """The model that serves all requests of the chain."""
        return self.links[-1].model if self.links else self.base

    @property
    def serves(self) -> tuple[str, ...]:
        """The requests that the current model serves."""
        return tuple(link.request for link in self.links)


@dataclass(frozen=True)
class State:
    """What the ledger comes to.

    Attributes:
        status: Of each request, in the order they were opened.
        chains: Of all base models.
        seen: Every model that the ledger names, given up or not.
    """

    status: dict[str, str] = field(default_factory=dict)
    chains: tuple[Chain, ...] = ()
    seen: frozenset[str] = frozenset()

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """The requests that each model serves, of those that were not given up."""
        return {
            model: chain.serves[:number]
            for chain in self.chains
            for number, model in enumerate((chain.base, *(link.model for link in chain.links)))
        }

    def model_of(self, request: str) -> str | None:
        """Return the current model that serves a request, None if none does."""
        return next((chain.current for chain in self.chains if request in chain.serves), None)


def after(now: State, entry: Entry) -> State:
    """Return what an entry makes of the state before it.

    Raises:
        InputError: If what it says cannot have happened.
    """
    return STEPS[entry["what"]](now, entry)


def _opened(now: State, entry: Entry) -> State:
    request = entry["request"]
    if request in now.status:
        raise InputError(f"Request {request} exists: choose another id.")
    return replace(now, status={**now.status, request: OPEN})


def _served(now: State, entry: Entry) -> State:
    request, base, model = entry["request"], entry["base"], entry["model"]
    status = _status(now, request)
    if status == SERVED:
        raise InputError(f"Request {request} is served already.")
    if model == base:
        raise InputError(f"The delta changes nothing in model {base[:12]}: it serves no request.")
    if model in now.models:
        raise InputError(
            f"Model {model[:12]} is there already, and serves {_named(now.models.get(model, ()))}: "
            "a request needs a model of its own."
        )
    chains = (*now.chains, _started(now, base)) if entry["starts"] else now.chains
    if base not in [chain.current for chain in chains]:
        raise InputError(_not_current(now, base))
    link = Link(request, model)
    return State(
        {**now.status, request: SERVED},
        tuple(
            replace(chain, links=(*chain.links, link)) if chain.current == base else chain
            for chain in chains
        ),
        now.seen | {base, model},
    )


def _revoked(now: State, entry: Entry) -> State:
    request = entry["request"]
    _status(now, request)
    status, chains = {**now.status, request: REVOKED}, []
    for chain in now.chains:
        kept = chain.serves.index(request) if request in chain.serves else len(chain.links)
        # what came later was trained on top of the model that is given up
        status |= dict.fromkeys(chain.serves[kept + 1 :], AGAIN)
        chains.append(replace(chain, links=chain.links[:kept]))
    return replace(now, status=status, chains=tuple(chains))


def _status(now: State, request: str) -> str:
    if request not in now.status:
        raise InputError(
            f"There is no request {request!r}; there are: {_named(tuple(now.status))}."
        )
    if now.status[request] == REVOKED:
        raise InputError(f"Request {request} was revoked: open another one.")
    return now.status[request]


def _started(now: State, base: str) -> Chain:
    if base in now.seen:
        raise InputError(f"Model {base[:12]} is in the ledger: no new chain can start from it.")
    return Chain(base)


def _not_current(now: State, base: str) -> str:
    current = (f"{one.current[:12]} (serves {_named(one.serves)})" for one in now.chains)
    return (
        f"The delta was made of model {base[:12]}, which is not current: what it made would not "
        f"serve the requests before. Current: {', '.join(current) or 'none'}. Export the current "
        "model and unlearn from there, or say --new-chain for another base model."
    )


def _named(requests: Sequence[str]) -> str:
    return ", ".join(requests) or "none"


STEPS: dict[str, Callable[[State, Entry], State]] = {
    "opened": _opened,
    "served": _served,
    "revoked": _revoked,
}
