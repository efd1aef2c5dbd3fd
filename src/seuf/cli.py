"""The project's own commands, beside those of Kedro."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from seuf.errors import InputError


@click.group(name="SEUF")
def cli() -> None:
    """Commands of this project."""


@cli.command()
@click.option("--env", metavar="STUDY", default="base", help="A folder of conf/.")
def show(env: str) -> None:
    """Print the table of a study that has run."""
    from seuf.lineage.study import load_config

    with _one_line_for_input_errors():
        root = Path(load_config(Path.cwd(), env)["globals"]["data_root"])
        tables = [root / "08_reporting" / name for name in ("comparison.md", "spread.md")]
        found = [table for table in tables if table.is_file()]
        if not found:
            raise InputError(f"{root}/08_reporting holds no table: run the study first.")
        click.echo(found[0].read_text(encoding="utf-8"))


@cli.group()
def dvc() -> None:
    """Keep dvc.yaml in step with the pipelines."""


@dvc.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if a file is behind.")
@click.option("--env", metavar="STUDY", help="One folder of conf/; all of them without it.")
def sync(check: bool, env: str | None) -> None:
    """Write the dvc.yaml of every study from its pipelines, catalog and parameters."""
    from seuf.lineage.study import load_config, study_names
    from seuf.lineage.sync import dvc_file, sync
    from seuf.pipelines.parameters import check_parameters

    project = Path.cwd()
    with _one_line_for_input_errors():
        behind = []
        for study in [env] if env else study_names(project):
            check_parameters(load_config(project, study)["parameters"])
            behind += [str(dvc_file(study))] if sync(project, study, write=not check) else []
    for file in behind:
        click.echo(f"{file} is behind: run `kedro dvc sync`" if check else f"wrote {file}")
    sys.exit(1 if check and behind else 0)


@contextmanager
def _one_line_for_input_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
