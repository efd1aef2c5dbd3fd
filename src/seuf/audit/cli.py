"""`kedro audit` and `kedro request`.

The former audits a method, verifies a statement elsewhere, makes keys, signs, and sends events; the
latter opens, serves and revokes requests to forget, lists them, and finds texts among them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kedro_dvc.files import UserPath, enter_project, problem_of_disk, require_clean_stdout
from seuf.audit import now
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.audit import Check
    from seuf.audit.audited import AuditedMethod

FILE = UserPath()
ENV = click.option("--env", metavar="STUDY", default="base", help="A folder of conf/.")
SHOWN = 12  # characters of a digest
EXAMPLES = (
    "Examples:",
    "  kedro audit seuf_ga",
    "  kedro audit seuf_ga --env tofu --request 17",
    "  kedro audit seuf_ga --out evidence/audit --sign keys/seuf.key",
    "  kedro audit verify STATEMENT --key keys/seuf.pub --delta DELTA --base BASE",
)
COLOURS = {"PASS": "green", "NOTE": "yellow", "FAIL": "red"}


class Words(click.ParamType):
    """A text that says something."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text without the space around it."""
        if not value.strip():
            self.fail("it is empty: say why in a few words", param, ctx)
        return str(value.strip())


class Share(click.FloatRange):
    """A number from 0 to 1; click takes what is none (`nan`) for within any range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


SHARE = Share(0, 1)


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Print an `InputError`, or that a disk is full or shut, as one line on stderr; exit with 1."""
    try:
        yield
    except Exception as error:
        problem = error if isinstance(error, InputError) else problem_of_disk(error)
        if problem is None:
            raise
        click.echo(f"error: {problem}", err=True)
        sys.exit(1)


class MethodOrCommand(click.Group):
    """A group whose first argument is one of its commands, or else a method to be audited."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Send what names no command to the audit itself."""
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
    """Prove what a method changed, and that nothing else was.

    METHOD is a name from the study's table of methods, such as seuf_ga; `kedro show --env STUDY`
    lists them. Its options: `kedro audit method --help`.
    """
    enter_project()


@audit.command(name="method")
@click.argument("name", metavar="METHOD")
@ENV
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--request", metavar="ID", help="The request that the method has served.")
@click.option("--checkpoint", type=FILE, help="An exported checkpoint to be compared with it too.")
@click.option("--replay", is_flag=True, help="Unlearn again, and compare the deltas byte by byte.")
@click.option("--out", type=FILE, help="Write report, statement, ML-BOM and certificate here.")
@click.option("--sign", "key", type=FILE, help="Private key for the statement; with --out.")
@click.option("--issuer", help="Who answers for the certificate; with --out.")
@click.option("--since", type=FILE, help="A statement signed before: what is no longer as it was?")
@click.option("--key", "public", type=FILE, help="Public key of who signed it; with --since.")
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
    """Walk back from a method's delta and compare all weights.

    Every byte is hashed again. One line a check; exit code 1 if one fails.

    Example: kedro audit seuf_ga --env tofu --out evidence/audit --sign keys/seuf.key
    """
    from kedro_dvc.project import load_study
    from seuf.audit import Check
    from seuf.audit.audited import AuditedMethod
    from seuf.audit.report import audit, first_cause, with_checks, with_request, write_documents
    from seuf.audit.requests import reported_request
    from seuf.audit.since import check_since

    if as_json:
        require_clean_stdout()
    with exit_on_input_error():
        if key and not out:
            raise InputError("--sign needs --out, the folder for the signed statement.")
        if issuer and not out:
            raise InputError("--issuer needs --out, the folder for the certificate.")
        if (since is None) != (public is None):
            raise InputError("--since and --key need each other: a statement and its signer's key.")
        for option, path in (("--sign", key), ("--since", since), ("--key", public)):
            if path is not None and not path.is_file():
                raise InputError(f"{option} {path}: there is no such file.")
        if checkpoint is not None and not checkpoint.is_dir():
            raise InputError(f"--checkpoint {checkpoint}: there is no such folder.")
        if request is not None:
            reported_request(Path.cwd(), request)
        audited = AuditedMethod(load_study(Path.cwd(), env), name)
        report = audit(audited, checkpoint)
        if replay:
            report = with_checks(report, [check_replay(audited)])
        if request is not None:
            report = with_request(report, audited.project, request)
        if since and public:
            report = with_checks(report, [check_since(report, audited.project, since, public)])
        if as_json:
            click.echo(json.dumps(report, indent=1, sort_keys=True))
        else:
            _print(Check(**check) for check in report["checks"])
            click.echo("forgetting: {verdict}: {text}".format(**report["forgetting"]))
            cause = first_cause(report)
            click.echo(f"{report['verdict']}: {cause}" if cause else report["verdict"])
        for path in write_documents(report, out, key, issuer) if out else ():
            click.echo(f"wrote {path}", err=True)
    sys.exit(report["verdict"] != "PASS")


def check_replay(audited: AuditedMethod) -> Check:
    """Return the check of a replay in a folder of its own; one that cannot be made has failed."""
    from tempfile import TemporaryDirectory

    from seuf.audit import failed
    from seuf.audit.replay import NAME, replay

    try:
        with TemporaryDirectory() as folder:
            return replay(audited.study, audited.method, Path(folder))[0]
    except InputError as error:  # the forget set may be erased
        erased = [path for path in audited.lineage[-1].deps if path in audited.erased]
        gone = [path for path in erased if not (audited.project / path).exists()]
        why = f"{gone[0]} {audited.why_missing(gone[0])}" if gone else str(error)
        return failed(NAME, f"the delta cannot be made again: {why}")


@audit.command()
@click.argument("file", type=FILE)
@click.option("--certificate", type=FILE, help="The page; by default the one beside the statement.")
@click.option("--key", type=FILE, help="Public key of who is trusted to have signed it.")
@click.option("--delta", type=FILE, help="The delta that it should be about.")
@click.option("--base", type=FILE, help="Folder of the base model.")
@click.option("--checkpoint", type=FILE, help="Folder of an exported model.")
def verify(file: Path, **given: Path | None) -> None:
    """Check a statement against delta and base model.

    Neither project nor data are needed. PASS, exit code 0, only if it is signed with --key and all
    that it names was compared. Exit code 1 if a check fails, 2 if nothing failed but something was
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
    """Make a pair of keys, to sign statements and verify them.

    The private one, seuf.key, signs; seuf.pub verifies, and may be given to anyone.

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

    The signature is written beside them, model.sig.

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

    TO is a file, to which they are appended, or a URL.

    Example: kedro audit events runs.ndjson --env tofu
    """
    from kedro_dvc.project import load_study
    from seuf.audit.audited import confidential_paths
    from seuf.audit.events import emit, recorded_runs

    with exit_on_input_error():
        study = load_study(Path.cwd(), env)
        runs = recorded_runs(Path.cwd(), env)
        place = to if "://" in to else str(UserPath().convert(to, None, None))
        number = emit(runs, env, place, confidential_paths(study))
    click.echo(f"{number} events to {to}")


def _print(checks: Iterable[Check]) -> None:
    for check in checks:
        result = click.style(check.result, COLOURS[check.result])
        click.echo(f"{result}  {check.name:10} {check.text}")


@click.group()
def request() -> None:
    """Keep requests to forget, and which model serves each.

    The texts are never kept, but salted digests of them.
    """
    from seuf.audit.requests import finish_openings

    enter_project()
    with exit_on_input_error():
        for line in finish_openings(Path.cwd()):
            click.echo(f"note: {line}", err=True)


@request.command(name="open")
@click.argument("name", metavar="ID")
@click.option(
    "--reason", type=Words(), required=True, help="Is committed and reported: name nobody in it."
)
@ENV
@click.option("--method", help="The method that is meant to serve it.")
@click.option("--forget-at-most", type=SHARE, help="Score on it that counts as forgotten.")
@click.option("--utility-at-least", type=SHARE, help="Score on all else that must be kept.")
@click.option("--texts", type=FILE, help='JSON lines with "text"; else the study\'s forget set.')
def open_(
    name: str,
    reason: str,
    env: str,
    method: str | None,
    texts: Path | None,
    **thresholds: float | None,
) -> None:
    """Open a request, with salted digests of what is to be forgotten.

    Example: kedro request open 17 --reason "letter of 20 November" --method seuf_ga
    """
    from seuf.audit.requests import SALTS, open_request

    with exit_on_input_error():
        served_by = _without_pipelines(env, method or "")
        if method:
            _ = served_by.settings  # refuses a method that the study has not
        records = _texts(texts or Path(served_by.path("forget_set")))
        purpose: dict[str, Any] = {"reason": reason, "study": env, "method": method}
        purpose |= {name: bound for name, bound in thresholds.items() if bound is not None}
        made = open_request(Path.cwd(), name, records, date=now(), **purpose)
    click.echo(f"opened {name}: {made['records']} records, digest {made['digest'][:SHOWN]}")
    click.echo(f"its salt is {SALTS}/{name}: keep it apart, and in no commit")


@request.command()
@click.argument("name", metavar="ID")
@click.argument("method")
@ENV
@click.option("--new-chain", is_flag=True, help="The study's base model is a new one.")
def served(name: str, method: str, env: str, new_chain: bool) -> None:
    """Enter in the ledger that a method's model serves a request.

    Example: kedro request served 17 seuf_ga
    """
    from kedro_dvc.hashing import sha256s
    from seuf.audit.ledger import read_ledger, state, write_entry
    from seuf.audit.weights import unlearned_digest
    from seuf.moe.deltas import Delta

    with exit_on_input_error():
        served_by, before = _without_pipelines(env, method), state(read_ledger(Path.cwd()))
        covered = _is_covered(served_by, name)
        _ = served_by.settings  # refuses a method that the study has not
        path = Path(served_by.path("delta"))
        if not path.is_file():
            raise InputError(f"{path} is missing: `kedro dvc run --env {env}` makes it.")
        delta = Delta.load(path)
        model = unlearned_digest(served_by.base[1], delta)
        entry = {
            "what": "served",
            "request": name,
            "date": now(),
            "study": env,
            "method": method,
            "delta": sha256s([path])[path],
            "base": delta.base,
            "model": model,
            "covered": covered,
            "starts": new_chain or not before.chains,
        }
        after = write_entry(Path.cwd(), entry)
    if not covered:
        click.echo("note: forget set or salt is gone; whether it held the records was not checked")
    click.echo(f"model {model[:SHOWN]} serves {', '.join(after.models[model])}")


@request.command()
@click.argument("name", metavar="ID")
@click.option("--reason", type=Words(), required=True, help="Is committed: name nobody in it.")
def revoke(name: str, reason: str) -> None:
    """Revoke a request: the model before it serves again.

    Example: kedro request revoke 17 --reason "withdrawn on 25 November"
    """
    from seuf.audit.ledger import AGAIN, read_ledger, state, write_entry

    with exit_on_input_error():
        before = state(read_ledger(Path.cwd()))
        entry = {"what": "revoked", "request": name, "date": now(), "reason": reason}
        after = write_entry(Path.cwd(), entry)
    click.echo(f"revoked {name}")
    for old, chain in zip(before.chains, after.chains, strict=True):
        if old != chain:
            serves = ", ".join(chain.serves) or "no request"
            click.echo(f"model {chain.current[:SHOWN]} is current again; it serves {serves}")
    again = [one for one, status in after.status.items() if status == AGAIN]
    if again:
        click.echo(f"to be served again, from the current model: {', '.join(again)}")


@request.command()
@click.argument("name", metavar="ID")
@click.argument("folder", type=FILE)
@click.option("--how", default="export", show_default=True, help="Such as: 4 bits, bitsandbytes.")
def derived(name: str, folder: Path, how: str) -> None:
    """Enter in the ledger what was made of a serving model.

    FOLDER was made of the model that serves the request, such as an export of it. The certificate
    lists it by its folder's name and digest.

    Example: kedro request derived 17 models/without-17
    """
    from seuf.audit.requests import enter_derived, serving_entry

    with exit_on_input_error():
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder.")
        serving = serving_entry(Path.cwd(), name)
        if serving is None:
            raise InputError(f"No model serves request {name}: `kedro request list` lists them.")
        entry = enter_derived(Path.cwd(), serving, folder, how)
    click.echo(f"{folder.name} ({entry['sha256'][:SHOWN]}) is derived from what serves {name}")


@request.command(name="list")
def list_() -> None:
    """Print all requests, what became of them, and what serves each."""
    from tabulate import tabulate

    from seuf.audit.ledger import read_ledger, state
    from seuf.audit.requests import REQUESTS, read_request, without_entry

    with exit_on_input_error():
        ledger = read_ledger(Path.cwd())
        current = state(ledger)
        for name in current.status:
            read_request(Path.cwd(), name)  # refuses what differs from the ledger
        for name in without_entry(Path.cwd()):
            click.echo(f"note: {REQUESTS}/{name}.json is of no request in the ledger", err=True)
    rows = [
        (
            name,
            one["date"],
            one["records"],
            current.status[name],
            (current.model_of(name) or "")[:SHOWN],
        )
        for one in ledger
        if one["what"] == "opened" and (name := one["request"])
    ]
    heads = ("id", "date", "records", "state", "model")
    click.echo(tabulate(rows, heads, tablefmt="github", disable_numparse=True) if rows else "none")


@request.command()
@click.argument("name", metavar="ID")
@click.option("--text", help="A text; it stays in your shell's history.")
@click.option("--texts", type=FILE, help='JSON lines with "text".')
def holds(name: str, text: str | None, texts: Path | None) -> None:
    """Print whether texts were among a request's, to the letter.

    Exit code 1 if one was not.

    Example: kedro request holds 17 --texts asked.jsonl
    """
    from seuf.audit.requests import are_records

    with exit_on_input_error():
        if (text is None) == (texts is None):
            raise InputError("Say either --text or --texts.")
        asked = [text] if text is not None else _texts(texts or Path())
        among = are_records(Path.cwd(), name, asked)
    click.echo(f"{sum(among)} of {len(among)} texts were among the records of request {name}")
    for number, one in enumerate(among, 1):
        if not one and texts:
            click.echo(f"not among them: record {number}")
    sys.exit(not all(among))


def _without_pipelines(env: str, method: str) -> AuditedMethod:
    """Return the method without the pipelines of its study, which no request asks for."""
    from kedro_dvc.project import Study, load_config
    from seuf.audit.audited import AuditedMethod

    return AuditedMethod(Study(Path.cwd(), env, load_config(Path.cwd(), env), {}), method)


def _texts(path: Path) -> list[Any]:
    from kedro.io import DatasetError

    from seuf.datasets.records import RecordsDataset

    try:
        texts = [record["text"] for record in RecordsDataset(str(path), fields=["text"]).load()]
    except DatasetError as error:  # Kedro wraps what the data set says
        raise InputError(str(error.__cause__ or error)) from error
    if wrong := [number for number, text in enumerate(texts, 1) if not isinstance(text, str)]:
        raise InputError(f'{path}: "text" of record {wrong[0]} is no text.')
    return texts


def _is_covered(served_by: AuditedMethod, name: str) -> bool | None:
    """Return True if the forget set has all of the request's records, None if that is unknown."""
    from seuf.audit.requests import SALTS, count_missing, read_request

    records = read_request(served_by.project, name)["records"]
    path = Path(served_by.path("forget_set"))
    if not path.is_file() or not (served_by.project / SALTS / name).is_file():
        return None
    if number := count_missing(served_by.project, name, _texts(path)):
        raise InputError(
            f"{number} of the {records} records of request {name} are not in {path}: the method "
            "was not asked to forget them."
        )
    return True
