"""What every module may import: the error that is shown as one line, and files.

Nothing heavy is imported, as a command that finds nothing to do takes no longer than its imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import click


class WorkflowError(click.ClickException):
    """Something that DVC cannot follow or a command cannot do; the message says what to do."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on one line."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)


def path_of(dataset: object) -> Path | None:
    """Return where a data set keeps its data; None if that is in no file."""
    path = getattr(dataset, "_filepath", None)
    return Path(str(path)) if path else None


def files_of(path: Path) -> list[Path]:
    """Return the file at a path, or all files in the folder that it is; none if it is not there."""
    return sorted(one for one in (path, *path.rglob("*")) if one.is_file())


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
