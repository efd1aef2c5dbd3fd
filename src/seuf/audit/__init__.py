"""Prove what a method changed, from what, and that nothing else was; and write down the proof.

`report.audit` is where to begin; each check gives a `Check`, one line. Formats of others (in-toto,
CycloneDX, OpenLineage, Sigstore) need the packages of the extra `audit`; they are imported where
they are used, as an audit needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from seuf.inputs import InputError

PASS, FAIL, NOTE = "PASS", "FAIL", "NOTE"
EXTRA = "audit"
PACKAGES = {
    "OpenSSL",
    "cryptography",
    "cyclonedx",
    "google",  # protobuf
    "in_toto_attestation",
    "model_signing",
    "openlineage",
    "packageurl",
    "securesystemslib",
}


def now() -> str:
    """Return the time, UTC, as reports and the ledger write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Check(NamedTuple):
    """One line of an audit.

    Attributes:
        name: What was looked at, one or two words.
        result: `PASS`, `FAIL`, or `NOTE` for what could not be looked at and need not be.
        text: What was found; of a failure its cause, with the file or tensor.
    """

    name: str
    result: str
    text: str


def passed(name: str, text: str) -> Check:
    """Return that something is as it should be."""
    return Check(name, PASS, text)


def failed(name: str, text: str) -> Check:
    """Return that something is not as it should be."""
    return Check(name, FAIL, text)


def noted(name: str, text: str) -> Check:
    """Return that something could not be looked at, though nothing says that it is wrong."""
    return Check(name, NOTE, text)


def printable(check: Check) -> Check:
    """Return a check whose text is one line of printable characters, whatever a file is named."""
    shown = (char if char.isprintable() else repr(char)[1:-1] for char in check.text)
    return check._replace(text="".join(shown))


class MissingExtraError(InputError):
    """A package of the extra is not installed."""


@contextmanager
def needs_extra() -> Iterator[None]:
    """Name the extra to install, in an error, if one of its packages is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise MissingExtraError(
            f'This needs the package {error.name}: pip install "seuf[{EXTRA}]"'
        ) from error
