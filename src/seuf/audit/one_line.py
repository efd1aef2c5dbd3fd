"""What is wrong with what a command was given, in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from seuf.errors import InputError


@contextmanager
def one_line_for_input_errors() -> Iterator[None]:
    """Print an `InputError` as one line on stderr and exit with 1."""
    try:
        yield
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
