"""What tests wait for. The limit is pytest's own timeout: a slow machine is no fault of a test."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONG = 3600  # seconds: what sleeps so long is stopped by the test or by pytest's timeout


def until(true: Callable[[], object]) -> None:
    """Return as soon as something is true."""
    while not true():
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Return whether a process goes on; one that nobody has asked for its exit code does not.

    In a container the first process may never ask, and orphans are left to it.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that does nothing, and that ends with the context at the latest."""
    with subprocess.Popen(["sleep", str(LONG)]) as process:
        try:
            yield process
        finally:
            process.kill()
