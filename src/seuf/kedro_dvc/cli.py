"""`kedro dvc`: the commands. A project adds the group to its own `cli`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


@click.group()
def dvc() -> None:
    """Make DVC's stages from the Kedro project, run them, and look after them."""


def env_option(meaning: str, **settings: Any) -> Callable[[Command], Command]:
    """Return the option that names a study."""
    return click.option("--env", "-e", metavar="STUDY", help=meaning, **settings)


@dvc.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if a file is behind.")
@click.option("--stamp", is_flag=True, hidden=True)  # by the stage that guards the others
@env_option("One folder of conf/; all of them without it.")
def sync(check: bool, stamp: bool, env: str | None) -> None:
    """Write the dvc.yaml of every study from its pipelines, catalog and parameters."""
    from seuf.kedro_dvc.guard import write_stamp
    from seuf.kedro_dvc.study import dvc_file, study_names
    from seuf.kedro_dvc.sync import sync

    project = Path.cwd()
    studies = [env] if env else study_names(project)
    behind = [dvc_file(study) for study in studies if sync(project, study, write=not check)]
    for file in behind:
        click.echo(f"{file} is behind: run `kedro dvc sync`" if check else f"wrote {file}")
    if check and behind:
        sys.exit(1)
    if stamp:
        for study in studies:
            write_stamp(project, study)
