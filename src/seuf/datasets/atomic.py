"""Data sets of kedro-datasets that never leave half a file behind."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any


class Atomic:
    """Mixin: save under a temporary name, then rename."""

    _filepath: PurePosixPath

    def save(self, data: Any) -> None:
        """Write the data; an earlier file stays whole until the new one replaces it."""
        final = self._filepath
        self._filepath = final.with_name(f"{final.name}.tmp")
        try:
            super().save(data)  # type: ignore[misc]
            Path(self._filepath).replace(final)
        finally:
            Path(self._filepath).unlink(missing_ok=True)
            self._filepath = final
