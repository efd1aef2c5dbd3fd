"""The ledger of requests that were opened, served and revoked, and which model serves which.

Each entry carries the digest of the one before it. Models are identified by their digests. A
*chain* is a base model and the models made of it, each of the one before it to serve one request
more; its last model is the current one, and serves all of them. `state` computes the chains.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kedro_dvc.evidence import EVIDENCE, text_of
from kedro_dvc.files import fcntl, strict_json, write_text
from seuf.inputs import InputError

LEDGER = f"{EVIDENCE}/ledger.json"
LOCK = ".ledger.lock"  # there while a command writes to the ledger
PATIENCE = 10.0  # seconds that a command waits for another one
OPEN, SERVED, AGAIN, REVOKED = "open", "served", "to be served again", "revoked"

COMMON = {"what": str, "request": str, "date": str, "previous": str | None}
FIELDS: dict[str, dict[str, Any]] = {
    "opened": {**COMMON, "records": int, "digest": str, "file": str},
    "served": {
        **COMMON,
        **{"delta": str, "base": str, "model": str},
        "study": str,
        "method": str,
        "starts": bool,  # a chain of its own
        "covered": bool | None,  # by the forget set; None where it or the salt was gone
    },
    "revoked": {**COMMON, "reason": str},
    # the model as it was handed on: an export, or with rounded weights
    "derived": {**COMMON, "model": str, "name": str, "how": str, "sha256": str},
}
Entry = dict[str, Any]


def read_ledger(project: Path) -> list[Entry]:
    """Return the entries; none if there is no ledger yet.

    Raises:
        InputError: If the file is no ledger, or an entry was edited or removed.
    """
    path = project / LEDGER
    if not os.path.lexists(path):
        return []
    try:
        ledger = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{LEDGER} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{LEDGER} is not JSON: {error}") from error
    if not isinstance(ledger, list):
        raise InputError(f"{LEDGER} is no list of entries.")
    check_ledger(ledger)
    return ledger


def write_entry(project: Path, entry: Entry) -> State:
    """Append an entry to the ledger, if it can be; return what the ledger then comes to.

    Raises:
        InputError: If what the entry says cannot have happened, or another command keeps writing.
    """
    with locked(project):
        return append_entry(project, entry)


def append_entry(project: Path, entry: Entry) -> State:
    """Do what `write_entry` does, in a process that has the lock.

    Raises:
        InputError: If what the entry says cannot have happened.
    """
    ledger = appended(read_ledger(project), entry)
    now = state(ledger)
    write_text(project / LEDGER, text_of(ledger))
    return now


@contextmanager
def locked(project: Path) -> Iterator[None]:
    """Keep other commands from writing between our reading and our writing.

    What a writer that was killed has left is removed: the system gives back its lock. Where it has
    no such locks (Windows), the file itself is the lock, and whoever was killed leaves it.

    Raises:
        InputError: If another command keeps writing.
    """
    path, deadline = project / LOCK, time.monotonic() + PATIENCE
    while (descriptor := _taken(path)) is None:
        if time.monotonic() > deadline:
            rest = "" if fcntl else " If none does, one was killed: remove it."
            raise InputError(f"{LOCK} exists: another command writes to the ledger.{rest}")
        time.sleep(0.02)
    try:
        for begun in (project / LEDGER).parent.glob(f"{Path(LEDGER).name}.*.tmp"):
            begun.unlink()
        yield
    finally:
        if fcntl is None:  # where an open file cannot be removed
            os.close(descriptor)
        path.unlink(missing_ok=True)
        if fcntl is not None:  # after it, or another process could have its lock meanwhile
            os.close(descriptor)


def _taken(path: Path) -> int | None:
    """Return the descriptor of a file that only this process has locked; None if it cannot."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | (0 if fcntl else os.O_EXCL), 0o666)
    except FileExistsError:
        return None
    if fcntl is None:
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # else who had it before has removed it since
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def appended(ledger: Sequence[Entry], entry: Entry) -> list[Entry]:
    """Return the ledger with one entry more.

    Raises:
        InputError: If what the entry says cannot have happened.
    """
    STEPS[entry["what"]](state(ledger), entry)
    return [*ledger, {**entry, "previous": entry_digest(ledger[-1]) if ledger else None}]


def entry_digest(entry: Entry) -> str:
    """Return the SHA-256 of an entry as JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_ledger(ledger: Sequence[Entry]) -> None:
    """Check that each entry is whole and follows the one before it.

    Only the commit protects the last entry, and shows that it is the last.

    Raises:
        InputError: If one is not, or does not; with its number.
    """
    before, previous = "none", None
    for number, entry in enumerate(ledger, 1):
        fields = FIELDS.get(str(entry.get("what"))) if isinstance(entry, dict) else None
        if (
            fields is None
            or entry.keys() != fields.keys()
            or not all(isinstance(entry[name], kind) for name, kind in fields.items())
        ):
            raise InputError(f"{LEDGER}: entry {number} is not as an entry must be.")
        label = f"entry {number} ({entry['what']} {entry['request']})"
        if entry["previous"] != previous:
            raise InputError(
                f"{LEDGER}: {label} was written after another entry than {before}, which stands "
                f"before it: one was edited or removed. `git log -p {LEDGER}` tells which."
            )
        before, previous = label, entry_digest(entry)


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


def served_by(ledger: Sequence[Entry], delta: str) -> tuple[str, ...]:
    """Return the requests that the model of a delta serves; none if it was given up.

    Args:
        ledger: Its entries.
        delta: SHA-256 of the delta's file.
    """
    entry = entry_of_delta(ledger, delta)
    return state(ledger).models[entry["model"]] if entry else ()


def entry_of_delta(ledger: Sequence[Entry], delta: str) -> Entry | None:
    """Return the last entry by which a delta's model serves; None if it was given up, or never did.

    Args:
        ledger: Its entries.
        delta: SHA-256 of the delta's file.
    """
    models = state(ledger).models
    made = [one for one in ledger if one["what"] == "served" and one["delta"] == delta]
    return next((one for one in reversed(made) if one["model"] in models), None)


def state(ledger: Sequence[Entry]) -> State:
    """Return what the ledger comes to.

    Raises:
        InputError: If an entry was edited or removed, or says what cannot have happened.
    """
    check_ledger(ledger)
    now = State()
    for number, entry in enumerate(ledger, 1):
        try:
            now = STEPS[entry["what"]](now, entry)
        except InputError as error:
            raise InputError(f"{LEDGER}: entry {number}: {error}") from error
    return now


def _opened(now: State, entry: Entry) -> State:
    request = entry["request"]
    if request in now.status:
        raise InputError(f"Request {request} exists: choose another id.")
    return replace(now, status={**now.status, request: OPEN})


def _served(now: State, entry: Entry) -> State:
    request, base, model = entry["request"], entry["base"], entry["model"]
    if _status(now, request) == SERVED:
        raise InputError(f"Request {request} is served already.")
    if model == base:
        raise InputError(f"The delta changes nothing in model {base[:12]}: it serves no request.")
    if model in now.models:
        raise InputError(
            f"Model {model[:12]} is there already, and serves {_named(now.models[model])}: "
            "a request needs a model of its own."
        )
    chains = now.chains
    if entry["starts"]:
        if base in now.seen:
            raise InputError(f"Model {base[:12]} is in the ledger: no new chain can start from it.")
        chains = (*chains, Chain(base))
    if base not in [chain.current for chain in chains]:
        current = (f"{one.current[:12]} (serves {_named(one.serves)})" for one in now.chains)
        raise InputError(
            f"The delta was made of model {base[:12]}, which is not current: what it made would "
            f"not serve the requests before. Current: {', '.join(current) or 'none'}. Export the "
            "current model and unlearn from there, or say --new-chain for another base model."
        )
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


def _derived(now: State, entry: Entry) -> State:
    request, model = entry["request"], entry["model"]
    _status(now, request)
    if request not in now.models.get(model, ()):
        raise InputError(f"Model {model[:12]} does not serve request {request}.")
    return now


STEPS: dict[str, Callable[[State, Entry], State]] = {
    "opened": _opened,
    "served": _served,
    "revoked": _revoked,
    "derived": _derived,
}


def _status(now: State, request: str) -> str:
    if request not in now.status:
        there = _named(tuple(now.status))
        raise InputError(f"There is no request {request!r}; there are: {there}.")
    if now.status[request] == REVOKED:
        raise InputError(f"Request {request} was revoked: open another one.")
    return now.status[request]


def _named(requests: Sequence[str]) -> str:
    return ", ".join(requests) or "none"
