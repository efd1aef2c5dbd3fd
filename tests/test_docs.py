"""Every command of this project that the documents name is there, with the options they give it."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from kedro.framework import project  # noqa: F401 - prints a line when it is first imported

from seuf.audit.cli import MethodOrCommand
from seuf.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
OWN = re.compile(rf"\bkedro ((?:{'|'.join(sorted(cli.commands))})\b[^`\n|;&)]*)")


def commands(page: Path) -> Iterator[str]:
    """Yield the commands in code: in backticks, or on a line of their own."""
    for line in page.read_text(encoding="utf-8").splitlines():
        in_code = [line] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        for text in in_code:
            yield from (match.partition(" # ")[0].strip() for match in OWN.findall(text))


def unknown(command: str) -> str | None:
    """Return what of a command is not there; None if all is."""
    words = command.split()
    found: click.Command = cli
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if isinstance(found, MethodOrCommand) and name not in found.commands:
            name = "method"  # what names no command is a method to be audited
        if name not in found.commands:
            return name
        found = found.commands[name]
    known = {option for one in found.params for option in (*one.opts, *one.secondary_opts)}
    if found.context_settings.get("ignore_unknown_options"):
        return None
    given = (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word))
    return next((word for word in given if word not in {*known, "--help"}), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_is_there_with_its_options(page):
    assert {one: what for one in commands(page) if (what := unknown(one))} == {}


def test_many_commands_are_found_and_a_wrong_one_is_noticed():
    assert sum(len(list(commands(page))) for page in PAGES) > 80
    assert unknown("dvc rnu --env smoke") == "rnu"
    assert unknown("dvc run --evn smoke") == "--evn"
    assert unknown("export seuf_ga FOLDER --push me/x --public") is None
