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
