"""The ledger: which requests were opened, served and revoked, and which model serves which.

Each entry carries the digest of the previous one. Models are identified by their digests. A
*chain* is a base model followed by unlearned models, each made from the one before it to serve one
more request; its last model is the current one and serves all of them. `state` computes the chains.
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
LOCK = ".ledger.lock"  # exists while a command writes to the ledger
PATIENCE = 10.0  # seconds to wait for another command's lock
OPEN, SERVED, AGAIN, REVOKED = "open", "served", "to be served again", "revoked"

COMMON = {"what": str, "request": str, "date": str, "previous": str | None}
FIELDS: dict[str, dict[str, Any]] = {
    "opened": {**COMMON, "records": int, "digest": str, "file": str},
    "served": {
        **COMMON,
        **{"delta": str, "base": str, "model": str},
        "study": str,
        "method": str,
        "starts": bool,  # starts a new chain
        "covered": bool | None,  # the forget set has all records; None if it or the salt was gone
    },
    "revoked": {**COMMON, "reason": str},
    # a copy of the model in another form: an export, or quantised weights
    "derived": {**COMMON, "model": str, "name": str, "how": str, "sha256": str},
}
Entry = dict[str, Any]


def read_ledger(project: Path) -> list[Entry]:
    """Return the entries; an empty list if there is no ledger yet.

    Raises:
        InputError: If the file is not a ledger, or an entry was edited or removed.
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
        raise InputError(f"{LEDGER} is not a list of entries.")
    check_ledger(ledger)
    return ledger


def write_entry(project: Path, entry: Entry) -> State:
    """Append a valid entry to the ledger and return the new state.

    Raises:
        InputError: If the entry is impossible in the present state, or the lock stays taken.
    """
    with locked(project):
        return append_entry(project, entry)


def append_entry(project: Path, entry: Entry) -> State:
    """Append an entry as `write_entry` does, in a process that already has the lock.

    Raises:
        InputError: If the entry is impossible in the present state.
    """
    ledger = appended(read_ledger(project), entry)
    after = state(ledger)
    write_text(project / LEDGER, text_of(ledger))
    return after


@contextmanager
def locked(project: Path) -> Iterator[None]:
    """Keep other commands from writing between our reading and our writing.

    The system releases the lock of a killed writer, and its temporary files are removed here.
    Without such locks (Windows) the file itself is the lock, and a killed writer leaves it.

    Raises:
        InputError: If another command has the lock for longer than `PATIENCE`.
    """
    path, deadline = project / LOCK, time.monotonic() + PATIENCE
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() > deadline:
            rest = "" if fcntl else " If none does, one was killed: remove it."
            raise InputError(f"{LOCK} exists: another command writes to the ledger.{rest}")
        time.sleep(0.02)
    try:
        for leftover in (project / LEDGER).parent.glob(f"{Path(LEDGER).name}.*.tmp"):
            leftover.unlink()
        yield
    finally:
        if fcntl is None:  # Windows cannot remove an open file
            os.close(descriptor)
        path.unlink(missing_ok=True)
        if fcntl is not None:  # only now, or another process could lock the file we remove
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Return the descriptor of the lock file, locked by this process; None if another has it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | (0 if fcntl else os.O_EXCL), 0o666)
    except FileExistsError:
        return None
    if fcntl is None:
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # 0 if the previous owner has removed it since
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def appended(ledger: Sequence[Entry], entry: Entry) -> list[Entry]:
    """Return the ledger with one more entry.

    Raises:
        InputError: If the entry is impossible in the ledger's state.
    """
    STEPS[entry["what"]](state(ledger), entry)
    return [*ledger, {**entry, "previous": entry_digest(ledger[-1]) if ledger else None}]


def entry_digest(entry: Entry) -> str:
    """Return the SHA-256 of an entry as JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_ledger(ledger: Sequence[Entry]) -> None:
    """Check that each entry has its fields and the digest of the entry before it.

    Only the commit protects the last entry, and shows that it is the last.

    Raises:
        InputError: With the number of the first entry that is wrong.
    """
    previous_label, previous = "the start of the ledger", None
    for number, entry in enumerate(ledger, 1):
        fields = FIELDS.get(str(entry.get("what"))) if isinstance(entry, dict) else None
        if (
            fields is None
            or entry.keys() != fields.keys()
            or not all(isinstance(entry[name], kind) for name, kind in fields.items())
        ):
            raise InputError(f"{LEDGER}: entry {number} is not a valid entry.")
        label = f"entry {number} ({entry['what']} {entry['request']})"
        if entry["previous"] != previous:
            raise InputError(
                f"{LEDGER}: {label} was not written after {previous_label}: an entry was edited or "
                f"removed. `git log -p {LEDGER}` shows which."
            )
        previous_label, previous = label, entry_digest(entry)


class Link(NamedTuple):
    """A request, and the model that was made to serve it."""

    request: str
    model: str


@dataclass(frozen=True)
class Chain:
    """A base model and the models made from it, each from the one before it."""

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
    """What the entries add up to.

    Attributes:
        status: The status of each request, in the order of opening.
        chains: One for each base model.
        seen: Every model of a `served` entry, also those dropped since.
    """

    status: dict[str, str] = field(default_factory=dict)
    chains: tuple[Chain, ...] = ()
    seen: frozenset[str] = frozenset()

    @property
    def models(self) -> dict[str, tuple[str, ...]]:
        """The requests that each model serves, dropped models left out."""
        return {
            model: chain.serves[:number]
            for chain in self.chains
            for number, model in enumerate((chain.base, *(link.model for link in chain.links)))
        }

    def model_of(self, request: str) -> str | None:
        """Return the current model that serves a request; None if none does."""
        return next((chain.current for chain in self.chains if request in chain.serves), None)


def served_by(ledger: Sequence[Entry], delta: str) -> tuple[str, ...]:
    """Return the requests that a delta's model serves; none if the model was dropped.

    Args:
        ledger: The ledger's entries.
        delta: SHA-256 of the delta's file.
    """
    entry = entry_of_delta(ledger, delta)
    return state(ledger).models[entry["model"]] if entry else ()


def entry_of_delta(ledger: Sequence[Entry], delta: str) -> Entry | None:
    """Return the last `served` entry of a delta; None if there is none, or its model was dropped.

    Args:
        ledger: The ledger's entries.
        delta: SHA-256 of the delta's file.
    """
    models = state(ledger).models
    entries = [one for one in ledger if one["what"] == "served" and one["delta"] == delta]
    return next((entry for entry in reversed(entries) if entry["model"] in models), None)


def state(ledger: Sequence[Entry]) -> State:
    """Return what the entries add up to.

    Raises:
        InputError: If an entry was edited or removed, or is impossible after those before it.
    """
    check_ledger(ledger)
    reached = State()
    for number, entry in enumerate(ledger, 1):
        try:
            reached = STEPS[entry["what"]](reached, entry)
        except InputError as error:
            raise InputError(f"{LEDGER}: entry {number}: {error}") from error
    return reached


def _opened(before: State, entry: Entry) -> State:
    request = entry["request"]
    if request in before.status:
        raise InputError(f"Request {request} exists: choose another id.")
    return replace(before, status={**before.status, request: OPEN})


def _served(before: State, entry: Entry) -> State:
    request, base, model = entry["request"], entry["base"], entry["model"]
    if _status_of(before, request) == SERVED:
        raise InputError(f"Request {request} is served already.")
    if model == base:
        raise InputError(f"The delta changes nothing in model {base[:12]}: it serves no request.")
    if model in before.models:
        raise InputError(
            f"Model {model[:12]} is in the ledger already and serves "
            f"{_listed(before.models[model])}: a request needs a model of its own."
        )
    chains = before.chains
    if entry["starts"]:
        if base in before.seen:
            raise InputError(f"Model {base[:12]} is in the ledger: no new chain can start from it.")
        chains = (*chains, Chain(base))
    if base not in [chain.current for chain in chains]:
        current = (f"{one.current[:12]} (serves {_listed(one.serves)})" for one in before.chains)
        raise InputError(
            f"The delta was made from model {base[:12]}, which is not current, so its model would "
            f"not serve the earlier requests. Current: {', '.join(current) or 'none'}. Export the "
            "current model and unlearn from it, or say --new-chain for another base model."
        )
    link = Link(request, model)
    return State(
        {**before.status, request: SERVED},
        tuple(
            replace(chain, links=(*chain.links, link)) if chain.current == base else chain
            for chain in chains
        ),
        before.seen | {base, model},
    )


def _revoked(before: State, entry: Entry) -> State:
    request = entry["request"]
    _status_of(before, request)
    status, chains = {**before.status, request: REVOKED}, []
    for chain in before.chains:
        kept = chain.serves.index(request) if request in chain.serves else len(chain.links)
        # later models were trained on top of the dropped one
        status |= dict.fromkeys(chain.serves[kept + 1 :], AGAIN)
        chains.append(replace(chain, links=chain.links[:kept]))
    return replace(before, status=status, chains=tuple(chains))


def _derived(before: State, entry: Entry) -> State:
    request, model = entry["request"], entry["model"]
    _status_of(before, request)
    if request not in before.models.get(model, ()):
        raise InputError(f"Model {model[:12]} does not serve request {request}.")
    return before


STEPS: dict[str, Callable[[State, Entry], State]] = {
    "opened": _opened,
    "served": _served,
    "revoked": _revoked,
    "derived": _derived,
}


def _status_of(before: State, request: str) -> str:
    """Return the status of a request.

    Raises:
        InputError: If there is no such request, or it was revoked.
    """
    if request not in before.status:
        known = _listed(tuple(before.status))
        raise InputError(f"There is no request {request!r}; there are: {known}.")
    if before.status[request] == REVOKED:
        raise InputError(f"Request {request} was revoked: open another one.")
    return before.status[request]


def _listed(requests: Sequence[str]) -> str:
    return ", ".join(requests) or "none"
