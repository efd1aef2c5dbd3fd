"""`kedro audit`: audit a method, verify a statement, make keys, sign an export, send events.

The checks of an audit are listed in `report.CHECKS`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kedro_dvc.files import UserPath, enter_project, problem_of_disk, require_clean_stdout
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.audit import Check

FILE = UserPath()
ENV = click.option("--env", metavar="STUDY", default="base", help="A folder of conf/.")
EXAMPLES = (
    "Examples:",
    "  kedro audit seuf_ga",
    "  kedro audit seuf_ga --env tofu --request 17",
    "  kedro audit seuf_ga --out evidence/audit --sign keys/seuf.key",
    "  kedro audit verify STATEMENT --key keys/seuf.pub --delta DELTA --base BASE",
)
COLOURS = {"PASS": "green", "NOTE": "yellow", "FAIL": "red"}


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Print an `InputError` or a disk that cannot be written as one line on stderr; exit with 1."""
    try:
        yield
    except Exception as error:
        problem = error if isinstance(error, InputError) else problem_of_disk(error)
        if problem is None:
            raise
        click.echo(f"error: {problem}", err=True)
        sys.exit(1)


class MethodOrCommand(click.Group):
    """A group whose first argument is one of its commands or else a method to audit."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `method` before a first argument that is not a command."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["method", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=MethodOrCommand,
    options_metavar="",
    subcommand_metavar="METHOD [OPTIONS] | COMMAND [ARGS]...",
    epilog="\b\n" + "\n".join(EXAMPLES),
)
def audit() -> None:
    """Prove what a method changed, and that nothing else changed.

    METHOD is a name from the study's table of methods, such as seuf_ga; `kedro show --env STUDY`
    lists them. Its options: `kedro audit method --help`.
    """
    enter_project()


@audit.command(name="method")
@click.argument("name", metavar="METHOD")
@ENV
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--request", metavar="ID", help="The request that the method serves.")
@click.option("--checkpoint", type=FILE, help="An exported checkpoint to compare too.")
@click.option("--replay", is_flag=True, help="Unlearn again, and compare the deltas byte by byte.")
@click.option("--out", type=FILE, help="Folder for report, statement, ML-BOM and certificate.")
@click.option("--sign", "key", type=FILE, help="Private key for the statement; with --out.")
@click.option("--issuer", help="Who answers for the certificate; with --out.")
@click.option("--since", type=FILE, help="An earlier signed statement to compare with.")
@click.option("--key", "public", type=FILE, help="Public key of its signer; with --since.")
def method(
    name: str,
    env: str,
    as_json: bool,
    request: str | None,
    checkpoint: Path | None,
    replay: bool,
    out: Path | None,
    key: Path | None,
    issuer: str | None,
    since: Path | None,
    public: Path | None,
) -> None:
    """Check where a delta comes from, its weights and its scores.

    Every byte is hashed again. One line a check; exit code 1 if one fails.

    Example: kedro audit seuf_ga --env tofu --out evidence/audit --sign keys/seuf.key
    """
    from kedro_dvc.project import load_study
    from seuf.audit import Check
    from seuf.audit.audited import AuditedMethod
    from seuf.audit.report import audit, first_cause, with_checks

    if as_json:
        require_clean_stdout()
    with exit_on_input_error():
        if key and not out:
            raise InputError("--sign needs --out, the folder for the signed statement.")
        if issuer and not out:
            raise InputError("--issuer needs --out, the folder for the certificate.")
        if (since is None) != (public is None):
            raise InputError("--since, a signed statement, and --key, its signer's, go together.")
        for option, path in (("--sign", key), ("--since", since), ("--key", public)):
            if path is not None and not path.is_file():
                raise InputError(f"{option} {path}: there is no such file.")
        if checkpoint is not None and not checkpoint.is_dir():
            raise InputError(f"--checkpoint {checkpoint}: there is no such folder.")
        project = Path.cwd()
        if request is not None:
            from seuf.audit.requests import reported_request

            reported_request(project, request)  # raises for an unknown request before the audit
        audited = AuditedMethod(load_study(project, env), name, checkpoint)
        report = audit(audited)
        if replay:
            from seuf.audit.replay import check_replay

            report = with_checks(report, [check_replay(audited)])
        if request is not None:
            from seuf.audit.cross_checks import with_request

            report = with_request(report, project, request)
        if since and public:
            from seuf.audit.cross_checks import check_since

            report = with_checks(report, [check_since(report, project, since, public)])
        if as_json:
            click.echo(json.dumps(report, indent=1, sort_keys=True))
        else:
            _print(Check(**check) for check in report["checks"])
            click.echo("forgetting: {verdict}: {text}".format(**report["forgetting"]))
            cause = first_cause(report)
            click.echo(f"{report['verdict']}: {cause}" if cause else report["verdict"])
        if out:
            from seuf.audit.documents import write_documents

            for path in write_documents(report, out, audited.confidential, key, issuer):
                click.echo(f"wrote {path}", err=True)
    sys.exit(report["verdict"] != "PASS")


@audit.command()
@click.argument("file", type=FILE)
@click.option("--certificate", type=FILE, help="By default the one beside the statement.")
@click.option("--key", type=FILE, help="Public key of the trusted signer.")
@click.option("--delta", type=FILE, help="The delta that the statement is about.")
@click.option("--base", type=FILE, help="Folder of the base model.")
@click.option("--checkpoint", type=FILE, help="Folder of an exported model.")
def verify(file: Path, **given: Path | None) -> None:
    """Check a statement against delta and base model.

    Needs neither project nor data. PASS, exit code 0, if the statement is signed with --key and
    everything in it was compared. Exit code 1 if a check fails, 2 if none fails but something was
    left out.

    Example: seuf-verify statement.json --key seuf.pub --delta delta.safetensors --base BASE
    """
    from seuf.audit import printable
    from seuf.audit.verify import verdict, verify

    with exit_on_input_error():
        checks = [*map(printable, verify(file, **given))]
    _print(checks)
    line, code = verdict(checks)
    click.echo(line)
    sys.exit(code)


@audit.command()
@click.argument("folder", type=FILE)
def keys(folder: Path) -> None:
    """Make a key pair to sign and verify statements.

    The private key, seuf.key, signs; the public key, seuf.pub, verifies and may be given away.

    Example: kedro audit keys keys
    """
    from seuf.audit.attest import make_keys

    with exit_on_input_error():
        private, public = make_keys(folder)
    click.echo(f"wrote {private}\nwrote {public}")


@audit.command()
@click.argument("folder", type=FILE)
@click.option("--key", type=FILE, required=True, help="Private key.")
def sign(folder: Path, key: Path) -> None:
    """Sign all files of an exported model.

    The signature is written beside them as model.sig.

    Example: kedro audit sign models/without-17 --key keys/seuf.key
    """
    from seuf.audit.attest import SIGNATURE, sign_folder

    with exit_on_input_error():
        sign_folder(folder, key, folder / SIGNATURE)
    click.echo(f"wrote {folder / SIGNATURE}")


@audit.command()
@click.argument("to")
@ENV
def events(to: str, env: str) -> None:
    """Send the runs of a study as OpenLineage events.

    TO is a file, to which the events are appended, or a URL.

    Example: kedro audit events runs.ndjson --env tofu
    """
    from kedro_dvc.project import load_study
    from seuf.audit.audited import confidential_paths
    from seuf.audit.events import emit, recorded_runs, without_secrets

    with exit_on_input_error():
        study = load_study(Path.cwd(), env)
        runs = recorded_runs(Path.cwd(), env)
        target = to if "://" in to else str(FILE.convert(to, None, None))
        count = emit(runs, env, target, confidential_paths(study))
    click.echo(f"{count} events to {without_secrets(to)}")


def _print(checks: Iterable[Check]) -> None:
    for check in checks:
        result = click.style(check.result, COLOURS[check.result])
        click.echo(f"{result}  {check.name:10} {check.text}")
