"""`kedro dvc`: the commands. A project adds the group to its own `cli`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]
COLOURS = {"ok": "green", "warning": "yellow", "ERROR": "red"}


@click.group()
def dvc() -> None:
    """Make DVC's stages from the Kedro project, run them, and look after them."""


def env_option(meaning: str, **settings: Any) -> Callable[[Command], Command]:
    """Return the option that names a study."""
    return click.option("--env", "-e", metavar="STUDY", help=meaning, **settings)


@dvc.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if a file is behind.")
@click.option("--stamp", is_flag=True, hidden=True)  # by the stage that guards the others
@env_option("One folder of conf/, which takes it up; without it all that have been taken up.")
def sync(check: bool, stamp: bool, env: str | None) -> None:
    """Write the dvc.yaml of the studies from their pipelines, catalog and parameters."""
    from kedro_dvc.project import dvc_file, taken_up
    from kedro_dvc.stages import write_stamp
    from kedro_dvc.sync import private_cache, sync

    project = Path.cwd()
    private_cache(project)
    studies = [env] if env else taken_up(project)
    behind = [dvc_file(study) for study in studies if sync(project, study, write=not check)]
    for file in behind:
        click.echo(f"{file} is behind: run `kedro dvc sync`" if check else f"wrote {file}")
    if check and behind:
        sys.exit(1)
    if stamp:
        for study in studies:
            write_stamp(project, study)


@dvc.command()
@click.argument("name")
@click.option(
    "--from", "source", metavar="STUDY", default="base", show_default=True, help="Begin as this."
)
def new_study(name: str, source: str) -> None:
    """Make a study: a folder of conf/, and a dvc.yaml for it."""
    from kedro_dvc.sync import new_study

    for path in new_study(Path.cwd(), name, source):
        click.echo(f"wrote {path}")
    click.echo(
        f"Say in conf/{name} what is to be different (parameters_*.yml, laid over those of base),\n"
        f"then: kedro dvc sync --env {name}; kedro dvc run --env {name}"
    )


@dvc.command(context_settings={"ignore_unknown_options": True})
@env_option("The study.", default="base", show_default=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def viz(env: str, arguments: tuple[str, ...]) -> None:
    """Look at a study and its last runs in the browser.

    ARGUMENTS go to `kedro viz run`, such as --port 4142 or --no-browser.
    """
    import importlib.util
    import os

    from kedro_dvc.files import WorkflowError
    from kedro_dvc.project import check_study
    from kedro_dvc.run_status import show

    if importlib.util.find_spec("kedro_viz") is None:
        raise WorkflowError("kedro-viz is not installed: pip install kedro-viz")
    show(Path.cwd(), check_study(Path.cwd(), env))
    os.environ["KEDRO_ENV"] = env
    os.execvp("kedro", ["kedro", "viz", "run", *arguments])


@dvc.command()
@click.argument("targets", nargs=-1)
@env_option("The study; its stages are the targets.", default="base", show_default=True)
@click.option("--force", "-f", is_flag=True, help="Run stages even if nothing has changed.")
@click.option(
    "--single-item", "-s", is_flag=True, help="Leave alone what comes before the targets."
)
@click.option(
    "--keep-going", "-k", is_flag=True, help="After a failure, run what does not need it."
)
@click.option("--pull", is_flag=True, help="Fetch from the remote what is missing.")
@click.option(
    "--allow-missing", is_flag=True, help="Take a stage for done if only its files are missing."
)
@click.option("--isolate", is_flag=True, help="Run each stage in a process of its own.")
@click.option("--wait", is_flag=True, help="Wait for another DVC command that is in the way.")
@click.option("--plain", is_flag=True, help="Print lines, on a terminal too.")
def run(
    targets: tuple[str, ...], env: str, isolate: bool, wait: bool, plain: bool, **how: bool
) -> None:
    """Do what `dvc repro` does, in one process: torch and the base model are loaded once.

    TARGETS are stages, such as unlearn or unlearn@seuf_ga; without any, the whole study.
    """
    from kedro_dvc.project import check_study, dvc_file
    from kedro_dvc.up_to_date import unchanged_stages

    project, file = Path.cwd(), dvc_file(check_study(Path.cwd(), env))
    if not targets and not any(how.values()) and (count := unchanged_stages(project, file)):
        click.echo(f"{count} unchanged")
        return

    from kedro_dvc.run import reproduce
    from kedro_dvc.watch import summary, watching

    stages = [target if ".yaml" in target else f"{file}:{target}" for target in targets]
    on_error = "keep-going" if how.pop("keep_going") else "fail"
    start = time.perf_counter()
    with _cause_alone(), watching(plain) as watcher:
        reproduce(project, stages or [file], watcher, isolate, wait, on_error=on_error, **how)
    click.echo(f"{summary(watcher.outcomes)}, in {time.perf_counter() - start:.1f} s")


@contextmanager
def _cause_alone() -> Iterator[None]:
    """Raise what made DVC fail, which its own error only wraps."""
    from dvc.exceptions import DvcException

    from kedro_dvc.files import WorkflowError

    try:
        yield
    except DvcException as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, DvcException | FileNotFoundError):
            raise WorkflowError(str(cause or error)) from None
        raise cause from cause.__cause__  # where its one line may be


@dvc.command("erase")
@click.argument("datasets", nargs=-1, required=True)
@env_option("The study whose outputs they are.", default="base", show_default=True)
@click.option("--shared", is_flag=True, help="Delete it also where another output holds the same.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase_command(datasets: tuple[str, ...], env: str, shared: bool, yes: bool) -> None:
    """Delete the bytes of data sets wherever DVC keeps them; dvc.lock keeps their hashes.

    Every version that this clone knows of goes, from the workspace, the cache and all remotes.
    """
    from dvc.repo import Repo

    from kedro_dvc.erase import erase, not_reached, outputs_named, plan_erasure
    from kedro_dvc.project import load_study

    outputs = outputs_named(load_study(Path.cwd(), env), datasets)
    with _cause_alone(), Repo() as repo:
        plan = plan_erasure(repo, outputs, shared)
        click.echo(plan)
        if plan.versions and not yes:
            click.confirm("Delete this for good?", abort=True)
        failures = plan.unsearched + erase(repo, plan)
    if failures:
        click.echo("Not all could be deleted:")
        for line in failures:
            click.echo(f"- {line}")
    elif plan.versions:
        click.echo("Deleted; the hashes stay in dvc.lock.")
    click.echo("Not reached, see to it yourself:")
    for line in not_reached(plan, outputs):
        click.echo(f"- {line}")
    if failures:
        sys.exit(1)


@dvc.command()
@env_option("The study to look at; without it all of them, and the whole of DVC's cache.")
def doctor(env: str | None) -> None:
    """Find what `dvc status` believes though it is not so: read the bytes, and say the way out."""
    from kedro_dvc.doctor import examine
    from kedro_dvc.project import check_study, taken_up

    project, failed = Path.cwd(), False
    studies = [check_study(project, env)] if env else taken_up(project)
    with _cause_alone():
        for level, text in examine(project, studies, whole_cache=env is None):
            click.echo(f"{click.style(f'{level:7}', COLOURS[level])}  {text}")
            failed |= level == "ERROR"
    if failed:
        sys.exit(1)
