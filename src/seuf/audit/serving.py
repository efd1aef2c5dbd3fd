"""Which model serves which requests, as the entries of a ledger make it, one after the other.

Models are told by their digests. A *chain* is a base model and the models made of it, each of the
one before it to serve one request more; its last model is the current one, and serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from seuf.errors import InputError

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
