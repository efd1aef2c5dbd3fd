"""The exception type whose message alone is shown to the user."""

from __future__ import annotations

from typing import IO, Any

import click


class WorkflowError(click.ClickException):
    """Something that DVC cannot follow or a command cannot do; the message says the way out."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on one line."""
        click.echo(f"error: {self.format_message()}", file=file, err=file is None)
