"""The project's commands in `kedro`: `show`, `plan`, `export`, `audit`, `request` and `dvc`.

Every `kedro` command imports this file, so each command imports what it needs when it runs.
"""

from __future__ import annotations

from pathlib import Path

import click

from kedro_dvc.cli import dvc
from kedro_dvc.files import UserPath, enter_project
from seuf.audit.cli import audit, exit_on_input_error
from seuf.audit.request_cli import request
from seuf.inputs import InputError

ENV = click.option(
    "--env", metavar="STUDY", default="base", help="A folder of conf/; by default the sandbox."
)


@click.group(name="SEUF")
def cli() -> None:
    """Commands of this project."""


@cli.command()
@ENV
@click.option("--stages", is_flag=True, help="Print the recorded stages' time and memory instead.")
@click.option(
    "--picture", type=UserPath(), help="Draw forgetting and utility to this .svg instead."
)
@click.option("--objective", help="With --picture: draw only its methods, such as ga.")
def show(env: str, stages: bool, picture: Path | None, objective: str | None) -> None:
    """Print the table of a study that has run.

    Example: kedro show --env tofu; kedro show --picture paths.svg --objective ga
    """
    from kedro_dvc.project import load_config

    with exit_on_input_error():
        if objective is not None and picture is None:
            raise InputError("--objective needs --picture FILE.svg.")
        if stages and picture is not None:
            raise InputError("Give either --stages or --picture.")
        project = enter_project()
        if stages:
            _show_stages(project, env)
            return
        root = Path(load_config(project, env)["globals"]["data_root"])
        if picture is not None and picture.suffix != ".svg":
            raise InputError(f"--picture {picture}: the format is SVG, so name it .svg.")
        if picture is not None:
            _draw(root / "08_reporting", picture, objective)
            click.echo(f"wrote {picture}")
            return
        for name in ("comparison.md", "spread.md"):
            if (table := root / "08_reporting" / name).is_file():
                click.echo(table.read_text(encoding="utf-8"))
                if (report := root / "08_reporting/report.html").is_file():
                    click.echo(f"The report: {report}")
                return
        raise InputError(f"{root}/08_reporting has no table: `kedro dvc run --env {env}` makes it.")


def _draw(reporting: Path, picture: Path, objective: str | None) -> None:
    """Draw the forgetting paths of all methods, or of one objective's, into a file.

    Args:
        reporting: The folder of the study's tables.
        picture: The file.
        objective: As in the table of methods; None for all.
    """
    import pandas as pd

    from kedro_dvc.files import write_text
    from seuf.reporting.comparison import not_unlearned
    from seuf.reporting.figures import forgetting_paths
    from seuf.reporting.svg import svg

    if not (table := reporting / "paths.csv").is_file():
        raise InputError(f"{table} is missing: run the study first.")
    paths = pd.read_csv(table, low_memory=False)
    known = list(paths["objective"].dropna().unique())
    if objective is not None and objective not in known:
        raise InputError(
            f"No method has the objective {objective!r}; there are {', '.join(known)}."
        )
    if objective is not None:
        paths = paths[paths["objective"] == objective]
    comparison = reporting / "comparison.csv"  # a study of spread has none
    beside = not_unlearned(pd.read_csv(comparison)) if comparison.is_file() else None
    write_text(picture, svg(forgetting_paths(paths, beside=beside)))


def _show_stages(project: Path, env: str) -> None:
    """Print seconds and peak memory of the stages with a record in `evidence/`."""
    from tabulate import tabulate

    from kedro_dvc.evidence import record_path, stage_records
    from kedro_dvc.project import check_study

    records = stage_records(project, check_study(project, env))
    if not records:
        raise InputError(f"evidence/{env}/runs has no record: `kedro dvc run` writes them.")
    rows, columns = [], {"GB": "resident", "GB on the GPU": "on_device"}
    for record in records:
        peaks = record.get("memory") or {}
        memory = {name: peaks.get(key) for name, key in columns.items()}
        rows.append(
            {
                "stage": record["node"],
                "began": record["started"][:16].replace("T", " "),
                "seconds": f"{record['seconds']:.1f}",
                **{name: "-" if b is None else f"{b / 1e9:.2f}" for name, b in memory.items()},
            }
        )
    aligned = ["left", "left", "right", "right", "right"]
    click.echo(tabulate(rows, "keys", "github", disable_numparse=True, colalign=aligned))
    total = sum(record["seconds"] for record in records)
    click.echo(f"\n{len(rows)} stages, {total:.1f} s. Memory is each stage's peak.")
    files = record_path(project, env, "any").parent.glob("*.json")
    if unread := len([*files]) - len(rows):
        click.echo(f"{unread} cannot be read: `kedro audit` says why.")
    if without := sum("memory" not in record for record in records):
        click.echo(f"{without} are older than the recording of memory.")


@cli.command()
@ENV
@click.option(
    "--layer",
    type=int,
    help="Decoder layer of the selected experts; by default the first MoE layer, the worst case.",
)
def plan(env: str, layer: int | None) -> None:
    """Estimate how much memory each method of a study needs.

    Reads the model's configuration, not its weights. Device memory is that of a training step: the
    weights, the optimizer's state and the snapshots of what is trained, and the activations of a
    batch.

    Example: kedro plan --env qwen_wmdp --layer 5
    """
    from tabulate import tabulate

    from kedro_dvc.project import load_config
    from seuf.parameters import StudyParameters, check_parameters
    from seuf.plan import study_memory, table

    with exit_on_input_error():
        parameters = load_config(enter_project(), env)["parameters"]
        check_parameters(parameters)
        rows = table(study_memory(StudyParameters.model_validate(parameters), layer))
        aligned = ["left", *["right"] * (len(rows[0]) - 1)]
        click.echo(tabulate(rows, "keys", "github", disable_numparse=True, colalign=aligned))


@cli.command()
@click.argument("method")
@click.argument("folder", type=UserPath())
@ENV
@click.option("--push", "repository", metavar="OWNER/NAME", help="Upload it to the hub, too.")
@click.option("--private/--public", default=True, help="Who may read it there; private by default.")
@click.option("--revision", help="The branch to upload to, made if missing.")
@click.option("--exist-ok", is_flag=True, help="The repository may exist already.")
def export(
    method: str,
    folder: Path,
    env: str,
    repository: str | None,
    private: bool,
    revision: str | None,
    exist_ok: bool,
) -> None:
    """Write a method's model as a checkpoint, with a model card.

    Plain transformers loads it. FOLDER must not exist yet, except with --push: an existing export
    of the method is checked and uploaded, so that you can complete its card first.

    Example: kedro export seuf_ga exported/seuf_ga --push me/model-without
    """
    from kedro_dvc.project import load_study
    from seuf.method_export import check_exported, export_method
    from seuf.publishing import Destination, check_destination, push

    with exit_on_input_error():
        to = Destination(repository, not private, revision, exist_ok) if repository else None
        if to:
            check_destination(to)
        elif revision or exist_ok or not private:
            raise InputError("--public, --revision and --exist-ok need --push.")
        study = load_study(enter_project(), env)
        if to is None or not folder.exists():
            request_id = export_method(study, method, folder)
            click.echo(f"wrote {folder}")
            if request_id is not None:
                click.echo(f"evidence/ledger.json names it: its model serves request {request_id}")
        if to:
            check_exported(study, method, folder)
            address, left_out = push(folder, to, f"{method} of the study {env}")
            for name in left_out:
                click.echo(f"left out {name}")
            click.echo(f"pushed {address} ({'private' if private else 'public'})")


cli.add_command(audit)
cli.add_command(request)
cli.add_command(dvc)
