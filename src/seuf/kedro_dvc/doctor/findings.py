"""What a check has found, and how bad it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SHOWN = 5  # names of many


class Finding(NamedTuple):
    """One line for the user: `ok`, `warning` or `ERROR`, what it is, and the way out."""

    level: str
    text: str


def ok(text: str) -> Finding:
    """Return that something was looked at and is as it should be."""
    return Finding("ok", text)


def warning(text: str) -> Finding:
    """Return something that the user should know; no result is wrong because of it."""
    return Finding("warning", text)


def error(text: str) -> Finding:
    """Return something because of which a result may be wrong."""
    return Finding("ERROR", text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, `1 file` or `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Iterable[object]) -> str:
    """Return names as a text: of many the first, and how many more there are."""
    texts = sorted(map(str, names))
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join(texts[:SHOWN] + more)


def gigabytes(size: int) -> str:
    """Return a number of bytes as a text."""
    return f"{size / 1e9:.3g} GB"
