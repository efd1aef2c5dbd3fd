"""`kedro audit`: audit a method, verify a statement elsewhere, make keys, hand on events."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seuf.audit.one_line import one_line_for_input_errors
from seuf.errors import InputError

if TYPE_CHECKING:
    from seuf.audit.check import Check

COLOURS = {"PASS": "green", "NOTE": "yellow", "FAIL": "red"}
FILE = click.Path(path_type=Path)


class MethodOrCommand(click.Group):
    """A group whose first argument is one of its commands, or else a method to be audited."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Send what names no command to the audit itself."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["method", *args]
        return super().parse_args(ctx, args)


@click.group(cls=MethodOrCommand)
def audit() -> None:
    """Prove what a method changed, from what, and that nothing else was: kedro audit METHOD.

    `kedro audit method --help` tells the options.
    """


@audit.command(name="method")
@click.argument("name", metavar="METHOD")
@click.option("--env", metavar="STUDY", default="base", help="A folder of conf/.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--request", metavar="ID", help="The request that the method has served.")
@click.option("--checkpoint", type=FILE, help="An exported checkpoint to be held against it too.")
@click.option("--replay", is_flag=True, help="Unlearn again, and compare the deltas byte by byte.")
@click.option("--out", type=FILE, help="Write report, statement, ML-BOM and certificate here.")
@click.option("--sign", "key", type=FILE, help="Private key for the statement; with --out.")
def method(
    name: str,
    env: str,
    as_json: bool,
    request: str | None,
    checkpoint: Path | None,
    replay: bool,
    out: Path | None,
    key: Path | None,
) -> None:
    """Walk back from a method's delta, hash every byte again, and compare all weights.

    One line a check; exit code 1 if one fails.
    """
    from seuf.audit.pages import write_pages

    with one_line_for_input_errors():
        report = _audited(name, env, request, checkpoint, replay)
        if as_json:
            click.echo(json.dumps(report, indent=1, sort_keys=True))
        else:
            _tell(report)
        for path in write_pages(report, out, key) if out else ():
            click.echo(f"wrote {path}", err=True)
    sys.exit(report["verdict"] != "PASS")


@audit.command()
@click.argument("file", type=FILE)
@click.option("--key", type=FILE, help="Public key of who is trusted to have signed it.")
@click.option("--delta", type=FILE, help="The delta that it should be about.")
@click.option("--base", type=FILE, help="Folder of the base model.")
@click.option("--checkpoint", type=FILE, help="Folder of an exported model.")
def verify(file: Path, **given: Path | None) -> None:
    """Hold a statement against delta and base model; needs no project and no data."""
    from seuf.audit.verify import verify

    with one_line_for_input_errors():
        checks = verify(file, **given)
    _lines(checks)
    failures = [check for check in checks if check.result == "FAIL"]
    click.echo(f"FAIL: {failures[0].text}" if failures else "PASS")
    sys.exit(bool(failures))


@audit.command()
@click.argument("folder", type=FILE)
def keys(folder: Path) -> None:
    """Make a pair of keys: the private one signs statements, the public one verifies them."""
    from seuf.audit.signing import make_keys

    with one_line_for_input_errors():
        for path in make_keys(folder):
            click.echo(f"wrote {path}")


@audit.command()
@click.argument("folder", type=FILE)
@click.option("--key", type=FILE, required=True, help="Private key.")
def sign(folder: Path, key: Path) -> None:
    """Sign all files of an exported model; the signature, model.sig, lies among them."""
    from seuf.audit.signing import SIGNATURE, sign_folder

    with one_line_for_input_errors():
        sign_folder(folder, key, folder / SIGNATURE)
    click.echo(f"wrote {folder / SIGNATURE}")


@audit.command()
@click.argument("to")
@click.option("--env", metavar="STUDY", default="base", help="A folder of conf/.")
def events(to: str, env: str) -> None:
    """Hand the runs of a study on as OpenLineage events, to a file or a URL."""
    from seuf.audit.events import emit
    from seuf.audit.recorded_runs import recorded_runs
    from seuf.audit.subject import confidential
    from seuf.kedro_dvc.project.study import load_study

    with one_line_for_input_errors():
        study = load_study(Path.cwd(), env)
        number = emit(recorded_runs(Path.cwd(), env), env, to, confidential(study))
    click.echo(f"{number} events to {to}")


def _audited(
    name: str, env: str, request: str | None, checkpoint: Path | None, replay: bool
) -> dict[str, Any]:
    from seuf.audit.examine import audit, with_checks, with_request
    from seuf.audit.subject import Subject
    from seuf.kedro_dvc.project.study import load_study

    subject = Subject(load_study(Path.cwd(), env), name)
    report = audit(subject, checkpoint)
    if replay:
        report = with_checks(report, replayed(subject))
    return with_request(report, subject.project, request) if request else report


def replayed(subject: Any) -> list[Check]:
    """Return the check of a replay in a folder of its own; one that cannot be made has failed."""
    from tempfile import TemporaryDirectory

    from seuf.audit.agreement import NAME
    from seuf.audit.check import failed
    from seuf.audit.replay import replay

    try:
        with TemporaryDirectory() as folder:
            return [replay(subject.study, subject.method, Path(folder))[0]]
    except InputError as error:  # the forget set may be erased
        return [failed(NAME, f"the delta cannot be made again: {error}")]


def _tell(report: dict[str, Any]) -> None:
    from seuf.audit.check import Check
    from seuf.audit.examine import first_cause

    _lines(Check(**check) for check in report["checks"])
    cause = first_cause(report)
    click.echo(f"{report['verdict']}: {cause}" if cause else report["verdict"])


def _lines(checks: Iterable[Check]) -> None:
    for check in checks:
        click.echo(
            f"{click.style(check.result, COLOURS[check.result])}  {check.name:10} {check.text}"
        )
