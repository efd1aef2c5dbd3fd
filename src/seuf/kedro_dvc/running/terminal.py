"""All that a process and its children write, taken off the terminal."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BREAKS = re.compile(r"[\r\n]+")


@contextmanager
def taken_off(heard: Callable[[str], None]) -> Iterator[TextIO]:
    """Hand every line written to stdout or stderr to `heard`; yield the terminal.

    Who writes still sees a terminal of the same size, so that progress bars go on: each state of
    one is a line. POSIX only.
    """
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, fcntl.ioctl(1, termios.TIOCGWINSZ, b"\0" * 8))
    kept = os.dup(1), os.dup(2)
    os.dup2(theirs, 1)
    os.dup2(theirs, 2)
    reader = threading.Thread(target=_read, args=(ours, heard), daemon=True)
    reader.start()
    try:
        with os.fdopen(os.dup(kept[0]), "w") as terminal:
            yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (theirs, *kept):
            os.close(descriptor)
        reader.join()
        os.close(ours)


def _read(descriptor: int, heard: Callable[[str], None]) -> None:
    rest = ""
    while text := _chunk(descriptor):
        *lines, rest = BREAKS.split(rest + text)
        _tell(lines, heard)
    _tell([rest], heard)


def _tell(lines: list[str], heard: Callable[[str], None]) -> None:
    for line in lines:
        if text := CONTROL.sub("", line).rstrip():
            heard(text)


def _chunk(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:  # Linux: the other end is closed
        return ""
