"""A warning that is told once, however often what it is about is done again.

Apart from `inputs`, which every stage watches.
"""

from __future__ import annotations

from functools import cache
from logging import WARNING, Logger


@cache
def warn_once(log: Logger, message: str, level: int = WARNING) -> None:
    """Log a warning, or what is of another level, the first time that it comes in this process."""
    log.log(level, message)
