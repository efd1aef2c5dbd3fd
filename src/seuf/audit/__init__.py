"""Prove what a method changed, from what, and that nothing else was; and write down the proof.

`report.audit` is where to begin. Formats of others (in-toto, CycloneDX, OpenLineage, Sigstore) need
the packages of the extra `audit`; they are imported where they are used, as an audit needs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from seuf.inputs import InputError

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
