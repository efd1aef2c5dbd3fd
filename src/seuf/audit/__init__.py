"""Prove what a method changed, from which model, and that nothing else changed.

Begin at `report.CHECKS`, the list of all checks; each yields `Check`s, one line each. The documents
of a passed audit (in-toto, CycloneDX, OpenLineage, Sigstore) need the packages of the extra
`audit`, imported where they are used: an audit alone needs none.
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
    """Return the present time in UTC, ISO, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Check(NamedTuple):
    """One line of an audit.

    Attributes:
        name: What was checked, one or two words.
        result: `PASS`, `FAIL`, or `NOTE` for a remark or a check that could not be made.
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
    """Return a remark, or a check that could not be made; neither fails an audit."""
    return Check(name, NOTE, text)


def printable(check: Check) -> Check:
    """Return a check whose text has control characters escaped: file names may contain any."""
    shown = (char if char.isprintable() else repr(char)[1:-1] for char in check.text)
    return check._replace(text="".join(shown))


class MissingExtraError(InputError):
    """A package of the extra is not installed."""


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a missing package of the extra into an error that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        raise MissingExtraError(
            f'This needs the package {error.name}: pip install "seuf[{EXTRA}]"'
        ) from error
