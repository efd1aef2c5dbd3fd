"""What one check of an audit has found."""

from __future__ import annotations

from typing import NamedTuple

PASS, FAIL, NOTE = "PASS", "FAIL", "NOTE"


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
