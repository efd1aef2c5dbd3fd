"""Log a warning once, however often its cause recurs.

This is not in `inputs`, on which every stage depends.
"""

from __future__ import annotations

from functools import cache
from logging import WARNING, Logger


@cache
def warn_once(log: Logger, message: str, level: int = WARNING) -> None:
    """Log a message, by default a warning, the first time it occurs in this process."""
    log.log(level, message)
