"""Ctrl-C, which stops a stage at once, and DVC only between its own steps.

DVC expects it while a command runs in another process. Amid the writing of its lock it would leave
half a file behind, which no later command can read.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """Says when an interrupt may come; in between it waits, unless it is the second."""

    def __init__(self) -> None:
        self._welcome, self._waiting = False, False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let none come inside the context but where `welcome` says so; then the one that waits."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python tells the main thread alone
            return
        before = signal.signal(signal.SIGINT, self._come)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self.check()

    @contextmanager
    def welcome(self) -> Iterator[None]:
        """Let them come inside the context, the one that waits at once."""
        self.check()
        self._welcome = True
        try:
            yield
        finally:
            self._welcome = False

    def check(self) -> None:
        """Let the one come that waits."""
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def _come(self, number: int, frame: Any) -> None:
        if self._welcome or self._waiting:
            raise KeyboardInterrupt
        self._waiting = True
