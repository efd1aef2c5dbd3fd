"""`kedro request`: open, serve and revoke requests to forget, list them, and ask what they held."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seuf.audit.one_line import one_line_for_input_errors
from seuf.errors import InputError

if TYPE_CHECKING:
    from seuf.audit.subject import Subject

FILE = click.Path(path_type=Path)
ENV = click.option("--env", metavar="STUDY", default="base", help="A folder of conf/.")
SHOWN = 12  # characters of a digest


@click.group()
def request() -> None:
    """Requests to forget: what was asked, and which model serves it; never the texts."""


@request.command(name="open")
@click.argument("name", metavar="ID")
@click.option("--reason", required=True, help="Is committed and reported: name nobody in it.")
@ENV
@click.option("--method", help="The method that is meant to serve it.")
@click.option("--texts", type=FILE, help='JSON lines with "text"; else the study\'s forget set.')
def open_(name: str, reason: str, env: str, method: str | None, texts: Path | None) -> None:
    """Open a request, with salted digests of what is to be forgotten."""
    from seuf.audit.requests import open_request
    from seuf.audit.salts import FOLDER

    with one_line_for_input_errors():
        subject = _subject(env, method or "")
        if method:
            _ = subject.settings  # refuses a method that the study has not
        records = _texts(texts or Path(subject.path("forget_set")))
        facts = {"reason": reason, "study": env, "method": method}
        made = open_request(Path.cwd(), name, records, date=_now(), **facts)
    click.echo(f"opened {name}: {made['records']} records, digest {made['digest'][:SHOWN]}")
    click.echo(f"its salt is {FOLDER}/{name}: keep it apart, and in no commit")


@request.command()
@click.argument("name", metavar="ID")
@click.argument("method")
@ENV
@click.option("--new-chain", is_flag=True, help="The study's base model is a new one.")
def served(name: str, method: str, env: str, new_chain: bool) -> None:
    """Enter in the ledger that a method's model serves a request."""
    from seuf.audit.ledger import read_ledger, state, write_entry

    with one_line_for_input_errors():
        subject, ledger = _subject(env, method), state(read_ledger(Path.cwd()))
        covered = _covered(subject, name)
        facts = {"covered": covered, "starts": new_chain or not ledger.chains, **_models(subject)}
        entry = {"what": "served", "request": name, "date": _now(), "study": env, "method": method}
        entry |= facts
        after = write_entry(Path.cwd(), entry)
    if not covered:
        click.echo("note: forget set or salt is gone; whether it held the records was not checked")
    serves = ", ".join(after.models[entry["model"]])
    click.echo(f"model {entry['model'][:SHOWN]} serves {serves}")


@request.command()
@click.argument("name", metavar="ID")
@click.option("--reason", required=True, help="Is committed: name nobody in it.")
def revoke(name: str, reason: str) -> None:
    """Revoke a request: the model before it serves again."""
    from seuf.audit.ledger import read_ledger, state, write_entry
    from seuf.audit.serving import AGAIN

    with one_line_for_input_errors():
        before = state(read_ledger(Path.cwd()))
        entry = {"what": "revoked", "request": name, "date": _now(), "reason": reason}
        after = write_entry(Path.cwd(), entry)
    click.echo(f"revoked {name}")
    for old, chain in zip(before.chains, after.chains, strict=True):
        if old != chain:
            serves = ", ".join(chain.serves) or "no request"
            click.echo(f"model {chain.current[:SHOWN]} is current again; it serves {serves}")
    again = [one for one, status in after.status.items() if status == AGAIN]
    if again:
        click.echo(f"to be served again, from the current model: {', '.join(again)}")


@request.command(name="list")
def list_() -> None:
    """Print all requests, what became of them, and the current model that serves each."""
    from tabulate import tabulate

    from seuf.audit.ledger import read_ledger, state

    with one_line_for_input_errors():
        ledger = read_ledger(Path.cwd())
        now = state(ledger)
    rows = [
        (name, one["date"], one["records"], now.status[name], (now.model_of(name) or "")[:SHOWN])
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
    """Tell whether texts were among a request's, to the letter; exit code 1 if one was not."""
    from seuf.audit.requests import held

    with one_line_for_input_errors():
        if (text is None) == (texts is None):
            raise InputError("Say either --text or --texts.")
        asked = [text] if text is not None else _texts(texts or Path())
        found = held(Path.cwd(), name, asked)
    click.echo(f"{sum(found)} of {len(found)} texts were among the records of request {name}")
    for number, one in enumerate(found, 1):
        if not one and texts:
            click.echo(f"not among them: record {number}")
    sys.exit(not all(found))


def _subject(env: str, method: str) -> Subject:
    """Return the method without the pipelines of its study, which nothing here asks for."""
    from seuf.audit.subject import Subject
    from seuf.kedro_dvc.project.study import Study, load_config

    return Subject(Study(Path.cwd(), env, load_config(Path.cwd(), env), {}), method)


def _texts(path: Path) -> list[str]:
    from kedro.io import DatasetError

    from seuf.datasets.records import RecordsDataset

    try:
        texts = [record["text"] for record in RecordsDataset(str(path), fields=["text"]).load()]
    except DatasetError as error:  # Kedro wraps what the data set says
        raise InputError(str(error.__cause__ or error)) from error
    if odd := [number for number, text in enumerate(texts, 1) if not isinstance(text, str)]:
        raise InputError(f'{path}: "text" of record {odd[0]} is no text.')
    return texts


def _covered(subject: Subject, name: str) -> bool | None:
    """Return True if the forget set has all of the request's records, None if none can tell."""
    from seuf.audit.requests import lacking, read_request
    from seuf.audit.salts import FOLDER

    records = read_request(subject.project, name)["records"]
    path = Path(subject.path("forget_set"))
    if not path.is_file() or not (subject.project / FOLDER / name).is_file():
        return None
    if number := lacking(subject.project, name, _texts(path)):
        raise InputError(
            f"{number} of the {records} records of request {name} are not in {path}: the method "
            "was not asked to forget them."
        )
    return True


def _models(subject: Subject) -> dict[str, Any]:
    """Return the digests of the method's delta and of the models before and after it."""
    from seuf.audit.digest_after import digest_after
    from seuf.kedro_dvc.hashing import sha256s
    from seuf.moe.deltas import Delta

    _ = subject.settings  # refuses a method that the study has not
    path = Path(subject.path("delta"))
    if not path.is_file():
        raise InputError(f"{path} is missing: `kedro dvc run --env {subject.study.name}` makes it.")
    delta = Delta.load(path)
    after = digest_after(subject.base[1], delta)
    return {"delta": sha256s([path])[path], "base": delta.base, "model": after}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
