"""`kedro dvc`: the commands. A project adds the group to its own `cli`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kedro_dvc.files import enter_project

Command = Callable[..., Any]
PLACES = ("local", "ray", "slurm")
COLOURS = {"ok": "green", "warning": "yellow", "ERROR": "red"}


class JobsNumber(click.ParamType):
    """A number from 1 on, or `auto`, which is 0."""

    name = "N|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return the number."""
        if str(value) == "auto":
            return 0
        if not str(value).isdecimal() or not int(value):
            self.fail(f"{value!r} is neither a number of stages from 1 on nor auto", param, ctx)
        return int(value)


@click.group()
def dvc() -> None:
    """Write DVC's stages from the Kedro project, run and check them."""
    enter_project()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed, as with `2>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    own = Path(sys.executable).with_name("kedro")  # stages call it by its name
    if own.exists() and shutil.which("kedro") != str(own):
        os.environ["PATH"] = os.pathsep.join([str(own.parent), os.environ.get("PATH", os.defpath)])


def env_option(meaning: str, **settings: Any) -> Callable[[Command], Command]:
    """Return the option that names a study."""
    return click.option("--env", "-e", metavar="STUDY", help=meaning, **settings)


@dvc.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a dvc.yaml is behind.")
@click.option("--stamp", is_flag=True, hidden=True)  # by the stage that guards the others
@env_option("One study, a folder of conf/; by default base and all that have a dvc.yaml.")
def sync(check: bool, stamp: bool, env: str | None) -> None:
    """Write each study's dvc.yaml from the Kedro project.

    It is made of the study's pipelines, catalog and parameters.
    """
    from kedro_dvc.project import dvc_file, synced_studies, take_part
    from kedro_dvc.stages import write_guard_file
    from kedro_dvc.sync import private_cache, sync

    project = Path.cwd()
    private_cache(project)
    studies = [env] if env else synced_studies(project)
    behind = [dvc_file(study) for study in studies if sync(project, study, write=not check)]
    if env:
        take_part(project, env)
    for file in behind:
        click.echo(f"{file} is behind: run `kedro dvc sync`" if check else f"wrote {file}")
    if check and behind:
        sys.exit(1)
    if stamp:
        for study in studies:
            write_guard_file(project, study)


@dvc.command()
@click.argument("name")
@click.option(
    "--from", "source", metavar="STUDY", default="base", show_default=True, help="Copy this study."
)
def new_study(name: str, source: str) -> None:
    """Make a study: a folder of conf/ and its dvc.yaml.

    Example: kedro dvc new-study mine --from base
    """
    from kedro_dvc.sync import new_study

    for path in new_study(Path.cwd(), name, source):
        click.echo(f"wrote {path}")
    click.echo(
        f"Write what is to be different to conf/{name} (parameters*.yml lie over those of base),\n"
        f"then: kedro dvc sync --env {name}; kedro dvc run --env {name}"
    )


@dvc.command(context_settings={"ignore_unknown_options": True})
@env_option("The study.", default="base", show_default=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def viz(env: str, arguments: tuple[str, ...]) -> None:
    """Show a study's pipeline and last runs in the browser.

    It is kedro-viz that shows them.
    ARGUMENTS go to `kedro viz run`, such as --port 4142 or --no-browser.
    """
    import importlib.util

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
@env_option("The study to run, or that has the TARGETS.", default="base", show_default=True)
@click.option("--force", "-f", is_flag=True, help="Run stages even if nothing has changed.")
@click.option(
    "--single-item", "-s", is_flag=True, help="Run the targets only, not what they depend on."
)
@click.option(
    "--keep-going", "-k", is_flag=True, help="After a failure run what does not depend on it."
)
@click.option(
    "--downstream", is_flag=True, help="Run the targets and what depends on them, not the others."
)
@click.option("--glob", is_flag=True, help="The targets are patterns, such as 'train@*'.")
@click.option("--pull", is_flag=True, help="Fetch missing data from the remote.")
@click.option("--allow-missing", is_flag=True, help="Skip a stage if only its files are missing.")
@click.option("--isolate", is_flag=True, help="Run each stage in a process of its own.")
@click.option("--on", "place", type=click.Choice(PLACES), help="Where stages run, several at once.")
@click.option("--address", help="Of the Ray cluster, as host:port; by default this machine's.")
@click.option("--copy", is_flag=True, help="Copy code and data to Ray nodes that share no disk.")
@click.option("--dirty", is_flag=True, help="Copy code that is not committed, too.")
@click.option(
    "--slurm",
    multiple=True,
    metavar="KEY=VALUE",
    help="What submitit takes, such as slurm_partition=gpu or timeout_min=600.",
)
@click.option(
    "--jobs", "-j", type=JobsNumber(), help="Stages at once at most; auto: one a processor core."
)
@click.option("--wait", is_flag=True, help="Wait while another DVC command holds a lock.")
@click.option("--plain", is_flag=True, help="Print a line a stage, on a terminal too.")
def run(
    targets: tuple[str, ...],
    env: str,
    isolate: bool,
    wait: bool,
    plain: bool,
    place: str | None,
    jobs: int | None,
    address: str | None,
    slurm: tuple[str, ...],
    copy: bool,
    dirty: bool,
    **how: bool,
) -> None:
    """Do what `dvc repro` does, in one process.

    Libraries and shared data are loaded once. With -j or --on several stages run at once, each in a
    process of its own; the files are the same. TARGETS are stages, such as train or train@large; by
    default all of the study.

    Example: kedro dvc run --env mine train@large; kedro dvc run -j auto
    """
    from kedro_dvc.project import check_study, dvc_file, take_part
    from kedro_dvc.up_to_date import unchanged_stages

    project, file = Path.cwd(), dvc_file(check_study(Path.cwd(), env))
    take_part(project, env)
    if not targets and not any(how.values()) and (count := unchanged_stages(project, file)):
        click.echo(f"{count} unchanged")
        return

    if sys.stdout.isatty() and not plain:
        click.echo(f"reading {file} and what is there")  # some seconds, DVC's imports among them
    from kedro_dvc.dependencies import check_repository
    from kedro_dvc.evidence import stage_records
    from kedro_dvc.run import reproduce
    from kedro_dvc.watch import summary, watching

    check_repository(project)
    stages = [target if ".yaml" in target else f"{file}:{target}" for target in targets]
    how["glob"] = how["glob"] and bool(targets)
    on_error = "keep-going" if how.pop("keep_going") else "fail"
    start = time.perf_counter()
    recorded = {one["node"]: one["seconds"] for one in stage_records(project, env)}
    with _cause_alone(env), watching(plain, recorded) as watcher:
        executor = _executor(project, place, jobs, isolate, address, slurm, copy, dirty)
        stages = stages or [file]
        reproduce(project, stages, watcher, isolate, wait, executor, on_error=on_error, **how)
    kept = "".join(f"; what they printed: {folder}/" for folder in sorted(watcher.logs))
    click.echo(f"{summary(watcher.outcomes)}, in {time.perf_counter() - start:.1f} s{kept}")


def _executor(
    project: Path,
    place: str | None,
    jobs: int | None,
    isolate: bool,
    address: str | None,
    slurm: tuple[str, ...],
    copy: bool,
    dirty: bool,
) -> Any:
    """Return what runs the stages; None if that is this process, one after the other."""
    from kedro_dvc.files import WorkflowError

    if address is not None and place != "ray":
        raise WorkflowError("--address is that of a Ray cluster: add --on ray")
    if (copy or dirty) and place != "ray":
        raise WorkflowError("--copy and --dirty are for the nodes of a Ray cluster: add --on ray")
    if slurm and place != "slurm":
        raise WorkflowError("--slurm says what Slurm is asked for: add --on slurm")
    if place is None and jobs is None:
        return None
    if place == "ray":
        _check_installed("ray")
        from kedro_dvc.executors.ray import RayTasks

        return RayTasks(project, jobs or 0, address, copy, dirty)
    if place == "slurm":
        _check_installed("submitit")
        from kedro_dvc.executors.slurm import SlurmJobs

        return SlurmJobs(project, jobs or 0, _settings(slurm))
    from kedro_dvc.executors.local import LocalProcesses
    from kedro_dvc.resources import cores

    return LocalProcesses(project, jobs or cores(), reuse=not isolate)


def _settings(stated: tuple[str, ...]) -> dict[str, Any]:
    """Return what KEY=VALUE says, numbers as such."""
    from kedro_dvc.files import WorkflowError

    pairs = [one.partition("=") for one in stated]
    if wrong := [key for key, equals, _ in pairs if not (key and equals)]:
        raise WorkflowError(f"--slurm takes KEY=VALUE, not {wrong[0]!r}")
    return {key: int(value) if value.isdecimal() else value for key, _, value in pairs}


def _check_installed(package: str) -> None:
    import importlib.util

    from kedro_dvc.files import WorkflowError

    if importlib.util.find_spec(package) is None:
        raise WorkflowError(f"{package} is not installed: pip install {package}")


@contextmanager
def _cause_alone(study: str | None = None) -> Iterator[None]:
    """Raise what made DVC fail, which its own error only wraps.

    Args:
        study: Of which a missing file's key is named.
    """
    from sqlite3 import OperationalError

    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.stage.exceptions import MissingDataSource, StageNotFound
    from dvc.utils.serialize import YAMLFileCorruptedError

    from kedro_dvc.files import WorkflowError, broken_yaml, problem_of_disk
    from kedro_dvc.sync import nearest_stages

    try:
        yield
    except StageNotFound as error:
        nearest = ", ".join(nearest_stages(Path(error.file), error.name))
        raise WorkflowError(f"{error}{nearest and f'; nearest: {nearest}'}") from None
    except YAMLFileCorruptedError as error:
        raise WorkflowError(broken_yaml(Path(error.path), error.__cause__ or error)) from None
    except DvcException as error:
        cause = error.__cause__
        if isinstance(cause or error, LockError):
            who = " ".join(str(cause or error).partition("\n\n")[0].split())
            raise WorkflowError(f"{who}; wait for it, as `kedro dvc run --wait` does") from None
        if isinstance(cause, MissingDataSource):
            raise WorkflowError(f"{cause}; `dvc pull`, or --pull, fetches it") from None
        if cause is None or isinstance(cause, DvcException | FileNotFoundError):
            raise WorkflowError(f"{cause or error}{_key_of(cause, study)}") from None
        if problem := problem_of_disk(cause):
            raise WorkflowError(problem) from cause
        raise cause from cause.__cause__  # where its one line may be
    except (OSError, OperationalError) as error:
        if problem := problem_of_disk(error):
            raise WorkflowError(problem) from error
        raise


def _key_of(error: BaseException | None, study: str | None) -> str:
    """Return the key of a study that names the file that an error misses, as its message's end."""
    from kedro_dvc.configuration import naming
    from kedro_dvc.project import load_config

    path = getattr(error, "filename", None)
    if study is None or not path:
        return ""
    return naming(Path.cwd(), load_config(Path.cwd(), study), str(path))


@dvc.command("erase")
@click.argument("datasets", nargs=-1)
@click.option(
    "--kept-apart",
    is_flag=True,
    help="All outputs that the catalog keeps in a remote apart.",
)
@env_option("The study whose outputs they are.", default="base", show_default=True)
@click.option("--shared", is_flag=True, help="Delete also what another output has too.")
@click.option(
    "--for",
    "purpose",
    metavar="TEXT",
    help="For whom or what, such as a request's id; is committed: name nobody in it.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase_command(
    datasets: tuple[str, ...],
    kept_apart: bool,
    env: str,
    shared: bool,
    purpose: str | None,
    yes: bool,
) -> None:
    """Delete data sets wherever DVC keeps them.

    A DATASET is an output of the study, by its name in the catalog, or the path of data that `dvc
    add` tracks. Their hashes stay in dvc.lock. Every version that this clone knows of is deleted,
    in the workspace, the cache and all remotes. When that was, and --for whom, is recorded in
    evidence/.

    Example: kedro dvc erase raw_customers --for 17
    """
    from dvc.repo import Repo

    from kedro_dvc import erase as of_erasure
    from kedro_dvc.erase import erase, not_reached, outputs_named, plan_erasure, record_erasure
    from kedro_dvc.evidence import erasures_file, read_erasures
    from kedro_dvc.project import load_study
    from kedro_dvc.run_status import forget
    from kedro_dvc.watch import forget_logs

    study = load_study(Path.cwd(), env)
    named = [*datasets, *(of_erasure.kept_apart(study) if kept_apart else [])]
    if not named:
        raise click.UsageError("Name data sets, or say --kept-apart.")
    outputs = outputs_named(study, named)
    read_erasures(Path.cwd(), env)  # refuses a file to which nothing can be added
    with _cause_alone(), Repo() as repo:
        plan = plan_erasure(repo, outputs, shared)
        click.echo(plan)
        if plan.versions and not yes:
            click.confirm("Delete this for good?", abort=True)
        failures = plan.unsearched + erase(repo, plan)
    record_erasure(Path.cwd(), env, plan, purpose)
    try:
        forget(Path.cwd(), env)
        forget_logs(env)
    except OSError as error:
        failures.append(f"what is kept of the runs: {error.strerror}")
    if failures:
        click.echo("Not all could be deleted:")
        for line in failures:
            click.echo(f"- {line}")
    elif plan.versions:
        click.echo("Deleted; the hashes stay in dvc.lock.")
    click.echo(f"{erasures_file(env)} says when: commit it.")
    click.echo("Not reached, see to it yourself:")
    for line in not_reached(plan, outputs):
        click.echo(f"- {line}")
    if failures:
        sys.exit(1)


@dvc.command()
@env_option("The study to check; by default all, and the whole of DVC's cache.")
def doctor(env: str | None) -> None:
    """Find damage that `dvc status` does not see.

    The bytes are read. Each finding says how to repair it; nothing is repaired.
    """
    from kedro_dvc.doctor import examine
    from kedro_dvc.project import check_study, synced_studies, take_part

    project, failed = Path.cwd(), False
    studies = [check_study(project, env)] if env else synced_studies(project)
    if env:
        take_part(project, env)
    with _cause_alone():
        for level, text in examine(project, studies, whole_cache=env is None):
            click.echo(f"{click.style(f'{level:7}', COLOURS[level])}  {text}")
            failed |= level == "ERROR"
    if failed:
        sys.exit(1)
