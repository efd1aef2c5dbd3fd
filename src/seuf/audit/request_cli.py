"""`kedro request`: open, serve, revoke and list requests to forget, and find texts among them."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kedro_dvc.files import enter_project
from seuf.audit import now
from seuf.audit.cli import ENV, FILE, exit_on_input_error
from seuf.inputs import InputError

if TYPE_CHECKING:
    from seuf.audit.audited import AuditedMethod

SHOWN = 12  # characters of a digest


class NotBlank(click.ParamType):
    """A text that is not blank."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text without surrounding space."""
        if not value.strip():
            self.fail("it is empty: say why in a few words", param, ctx)
        return str(value.strip())


class Share(click.FloatRange):
    """A number from 0 to 1; click itself finds `nan` in any range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


SHARE = Share(0, 1)


@click.group()
def request() -> None:
    """Keep requests to forget, and which model serves each.

    Of the texts only salted digests are kept.
    """
    from seuf.audit.requests import finish_openings

    project = enter_project()
    with exit_on_input_error():
        for sentence in finish_openings(project):
            click.echo(f"note: {sentence}", err=True)


@request.command(name="open")
@click.argument("name", metavar="ID")
@click.option(
    "--reason", type=NotBlank(), required=True, help="Committed and reported: name nobody in it."
)
@ENV
@click.option("--method", help="The method meant to serve it.")
@click.option("--forget-at-most", type=SHARE, help="Highest score that counts as forgotten.")
@click.option("--utility-at-least", type=SHARE, help="Lowest score to keep on all else.")
@click.option("--texts", type=FILE, help='JSON lines with "text"; else the study\'s forget set.')
def open_(
    name: str,
    reason: str,
    env: str,
    method: str | None,
    texts: Path | None,
    **thresholds: float | None,
) -> None:
    """Open a request with salted digests of the texts to forget.

    Example: kedro request open 17 --reason "letter of 20 November" --method seuf_ga
    """
    from seuf.audit.requests import SALTS, open_request

    with exit_on_input_error():
        audited = _without_pipelines(env, method or "")
        if method:
            _ = audited.settings  # raises if the study has no such method
        records = _texts(texts or Path(audited.path("forget_set")))
        purpose: dict[str, Any] = {"reason": reason, "study": env, "method": method}
        purpose |= {key: bound for key, bound in thresholds.items() if bound is not None}
        opened = open_request(Path.cwd(), name, records, date=now(), **purpose)
    click.echo(f"opened {name}: {opened['records']} records, digest {opened['digest'][:SHOWN]}")
    click.echo(f"its salt is {SALTS}/{name}: keep it apart, and in no commit")


@request.command()
@click.argument("name", metavar="ID")
@click.argument("method")
@ENV
@click.option(
    "--new-chain", is_flag=True, help="Start from a base model that is new to the ledger."
)
def served(name: str, method: str, env: str, new_chain: bool) -> None:
    """Enter in the ledger that a method's model serves a request.

    Example: kedro request served 17 seuf_ga
    """
    from kedro_dvc.hashing import sha256s
    from seuf.audit.ledger import read_ledger, state, write_entry
    from seuf.audit.weights import unlearned_digest
    from seuf.moe.deltas import Delta

    with exit_on_input_error():
        audited, before = _without_pipelines(env, method), state(read_ledger(Path.cwd()))
        covered = _is_covered(audited, name)
        _ = audited.settings  # raises if the study has no such method
        path = Path(audited.path("delta"))
        if not path.is_file():
            raise InputError(f"{path} is missing: `kedro dvc run --env {env}` makes it.")
        delta = Delta.load(path)
        model = unlearned_digest(audited.base[1], delta)
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
        click.echo("note: forget set or salt is gone: whether it has the records was not checked")
    click.echo(f"model {model[:SHOWN]} serves {', '.join(after.models[model])}")


@request.command()
@click.argument("name", metavar="ID")
@click.option("--reason", type=NotBlank(), required=True, help="Committed: name nobody in it.")
def revoke(name: str, reason: str) -> None:
    """Revoke a request: the model before it becomes current again.

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
    """Enter a model derived from a serving one in the ledger.

    FOLDER was made from the model that serves the request, such as an export of it. The certificate
    lists it by its folder's name and digest.

    Example: kedro request derived 17 models/without-17
    """
    from seuf.audit.requests import enter_derived, serving_entry

    with exit_on_input_error():
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
        serving = serving_entry(Path.cwd(), name)
        if serving is None:
            raise InputError(f"No model serves request {name}: `kedro request list` lists them.")
        entry = enter_derived(Path.cwd(), serving, folder, how)
    click.echo(f"{folder.name} ({entry['sha256'][:SHOWN]}) is derived from the model of {name}")


@request.command(name="list")
def list_() -> None:
    """Print all requests, their states and the models serving them."""
    from tabulate import tabulate

    from seuf.audit.ledger import read_ledger, state
    from seuf.audit.requests import REQUESTS, read_request, without_entry

    with exit_on_input_error():
        ledger = read_ledger(Path.cwd())
        current = state(ledger)
        for name in current.status:
            read_request(Path.cwd(), name)  # raises if it differs from the ledger
        for name in without_entry(Path.cwd()):
            click.echo(f"note: the ledger has no request for {REQUESTS}/{name}.json", err=True)
    rows = [
        (
            name,
            entry["date"],
            entry["records"],
            current.status[name],
            (current.model_of(name) or "")[:SHOWN],
        )
        for entry in ledger
        if entry["what"] == "opened" and (name := entry["request"])
    ]
    heads = ("id", "date", "records", "state", "model")
    click.echo(tabulate(rows, heads, tablefmt="github", disable_numparse=True) if rows else "none")


@request.command()
@click.argument("name", metavar="ID")
@click.option("--text", help="A text; it stays in your shell's history.")
@click.option("--texts", type=FILE, help='JSON lines with "text".')
def holds(name: str, text: str | None, texts: Path | None) -> None:
    """Print whether exactly these texts were among a request's.

    Exit code 1 if one was not.

    Example: kedro request holds 17 --texts asked.jsonl
    """
    from seuf.audit.requests import are_records

    with exit_on_input_error():
        if (text is None) == (texts is None):
            raise InputError("Give either --text or --texts.")
        candidates = _texts(texts) if texts is not None else [str(text)]
        found = are_records(Path.cwd(), name, candidates)
    click.echo(f"{sum(found)} of {len(found)} texts were among the records of request {name}")
    for number, is_record in enumerate(found, 1):
        if texts and not is_record:
            click.echo(f"not among them: record {number}")
    sys.exit(not all(found))


def _without_pipelines(env: str, method: str) -> AuditedMethod:
    """Return the method without its study's pipelines, which no request needs."""
    from kedro_dvc.project import Study, load_config
    from seuf.audit.audited import AuditedMethod

    return AuditedMethod(Study(Path.cwd(), env, load_config(Path.cwd(), env), {}), method)


def _texts(path: Path) -> list[Any]:
    from kedro.io import DatasetError

    from seuf.datasets.records import RecordsDataset

    try:
        texts = [record["text"] for record in RecordsDataset(str(path), fields=["text"]).load()]
    except DatasetError as error:  # Kedro wraps the data set's own error
        raise InputError(str(error.__cause__ or error)) from error
    if wrong := [number for number, text in enumerate(texts, 1) if not isinstance(text, str)]:
        raise InputError(f'{path}: "text" of record {wrong[0]} is not a string.')
    return texts


def _is_covered(audited: AuditedMethod, name: str) -> bool | None:
    """Return True if the forget set has all of the request's records; None if that is unknown.

    Raises:
        InputError: If a record is missing there.
    """
    from seuf.audit.requests import SALTS, count_missing, read_request

    records = read_request(audited.project, name)["records"]
    path = Path(audited.path("forget_set"))
    if not path.is_file() or not (audited.project / SALTS / name).is_file():
        return None
    if number := count_missing(audited.project, name, _texts(path)):
        raise InputError(
            f"{number} of the {records} records of request {name} are not in {path}: the method "
            "was not trained to forget them."
        )
    return True
