"""The most memory that a piece of work takes."""

from __future__ import annotations

import sys
import threading
from typing import Any, Self

import psutil

SECONDS = 0.05  # between two looks


class Peak:
    """While entered, looks at the memory of this process and of those it has started.

    Attributes:
        memory: The most that was resident at a look, in bytes.
        device_memory: The most that torch has allocated on a CUDA device, in bytes; None without.
    """

    def __init__(self) -> None:
        self.memory = 0
        self.device_memory: int | None = None
        self._process = psutil.Process()
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        if (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats()
        self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._looking.join()
        if (cuda := _cuda()) is not None:
            self.device_memory = cuda.max_memory_allocated()

    def _look(self) -> None:
        while True:
            self.memory = max(self.memory, self._resident())
            if self._over.wait(SECONDS):
                return

    def _resident(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # it has ended since
                continue
        return total


def _cuda() -> Any:
    """Return torch.cuda if some stage has begun to use it, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
