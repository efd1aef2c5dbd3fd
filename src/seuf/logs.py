"""A warning that is told once, however often what it is about is done again.

Apart from `inputs`, which every stage watches.
"""

from __future__ import annotations

from functools import cache
from logging import Logger


@cache
def warn_once(log: Logger, message: str) -> None:
    """Log a warning, the first time that it comes in this process."""
    log.warning(message)
