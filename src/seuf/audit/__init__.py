"""Prove what a method changed, from which model, and that nothing else changed.

Begin at `report.CHECKS`, the list of all checks; each yields lines, `Check`. The documents of a
passed audit (in-toto, CycloneDX, OpenLineage, Sigstore) need the packages of the extra `audit`,
which are imported where they are used: an audit alone needs none.
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
        name: What was checked, one or two words.
        result: `PASS`, `FAIL`, or `NOTE` for what could not be checked but is not wrong either.
        text: What was found; for a failure its cause, with the file or tensor.
    """

    name: str
    result: str
    text: str


def passed(name: str, text: str) -> Check:
    """Return a check that passed."""
    return Check(name, PASS, text)


def failed(name: str, text: str) -> Check:
    """Return a check that failed."""
    return Check(name, FAIL, text)


def noted(name: str, text: str) -> Check:
    """Return a check that could not be made, or a remark; neither fails an audit."""
    return Check(name, NOTE, text)


def printable(check: Check) -> Check:
    """Return a check with its text as one printable line: file names may hold any character."""
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
