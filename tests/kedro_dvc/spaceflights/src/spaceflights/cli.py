"""The project's own commands, beside those of Kedro."""

import click

from kedro_dvc.cli import dvc


@click.group(name="Spaceflights")
def cli() -> None:
    """Commands of this project."""


cli.add_command(dvc)
