"""dvc.lock, written after every stage, without the time that DVC spends on its comments.

DVC reads the file so that comments survive, in pure Python: with many stages that is seconds for
each. No one writes comments there. The bytes that are written are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dvc.dvcfile
from dvc.utils.serialize import dump_yaml, load_yaml

LOCK = "dvc.lock"


@contextmanager
def quick_locks() -> Iterator[None]:
    """Let DVC change its lock files as `changed` does inside the context."""
    original = dvc.dvcfile.modify_yaml

    def modify(path: str, fs: Any = None) -> Any:
        return changed(path, fs) if Path(path).name == LOCK else original(path, fs=fs)

    dvc.dvcfile.modify_yaml = modify
    try:
        yield
    finally:
        dvc.dvcfile.modify_yaml = original


@contextmanager
def changed(path: str, fs: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the content of a lock file, which may not exist yet, and write what becomes of it."""
    content = load_yaml(path, fs=fs) if Path(path).exists() else {}
    yield content
    dump_yaml(path, content, fs=fs)
