"""All that a process and its children write, taken off the terminal.

What a run shows: the whole graph on one screen of a terminal, elsewhere one line a stage.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kedro_dvc.run import Outcome

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BREAKS = re.compile(r"[\r\n]+")


@contextmanager
def taken_off(heard: Callable[[str], None]) -> Iterator[TextIO]:
    """Hand every line written to stdout or stderr to `heard`; yield the terminal.

    Who writes still sees a terminal of the same size, so that progress bars go on: each state of
    one is a line. POSIX only.
    """
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, fcntl.ioctl(1, termios.TIOCGWINSZ, b"\0" * 8))
    kept = os.dup(1), os.dup(2)
    os.dup2(theirs, 1)
    os.dup2(theirs, 2)
    reader = threading.Thread(target=_read, args=(ours, heard), daemon=True)
    reader.start()
    try:
        with os.fdopen(os.dup(kept[0]), "w") as terminal:
            yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (theirs, *kept):
            os.close(descriptor)
        reader.join()
        os.close(ours)


def _read(descriptor: int, heard: Callable[[str], None]) -> None:
    rest = ""
    while text := _chunk(descriptor):
        *lines, rest = BREAKS.split(rest + text)
        _tell(lines, heard)
    _tell([rest], heard)


def _tell(lines: list[str], heard: Callable[[str], None]) -> None:
    for line in lines:
        if text := CONTROL.sub("", line).rstrip():
            heard(text)


def _chunk(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:  # Linux: the other end is closed
        return ""


LOOKS = {"unchanged": "dim", "restored": "cyan", "ran": "green", "failed": "bold red"}
GIGABYTE = 1e9
KEPT = 40  # lines of a stage that are shown if it fails


class Lines:
    """One line for each stage that DVC is done with."""

    def __init__(self, console: Console) -> None:
        self.outcomes: list[Outcome] = []
        self._console, self._width, self._file = console, 0, ""

    def planned(self, stages: list[str]) -> None:
        """Make room for the names; the file is left out where it is the same for all."""
        files = {stage.rpartition(":")[0] for stage in stages}
        self._file = f"{files.pop()}:" if len(files) == 1 else ""
        self._width = max((len(self._name(stage)) for stage in stages), default=0)

    def _name(self, stage: str) -> str:
        return stage.removeprefix(self._file)

    def began(self, stage: str) -> None:
        """Say nothing yet."""

    def waits(self, why: str) -> None:
        """Say who is in the way."""
        self._console.print(Text(f"waiting: {' '.join(why.split())}"), soft_wrap=True)

    def ended(self, outcome: Outcome) -> None:
        """Say what became of a stage."""
        self.outcomes.append(outcome)
        name = f"{self._name(outcome.stage):{self._width}}"
        text = f"{name}  {outcome.what:9}  {_cost(outcome)}".rstrip()
        self._console.print(Text(text, LOOKS[outcome.what]), soft_wrap=True)


@dataclass
class _Row:
    """The stages of one entry of dvc.yaml: of a matrix all."""

    total: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    def cells(self, name: str, at_work: str, since: float) -> tuple[str, str, str, str]:
        """Return name, state, seconds and memory; `at_work` is the stage that runs, if one does."""
        many = self.total > 1
        state = f"▶ {at_work.partition('@')[2]}" if at_work else told(self.outcomes, many)
        count = f"{len(self.outcomes)}/{self.total}  " if many else ""
        seconds = sum(one.seconds for one in self.outcomes) + (since if at_work else 0.0)
        memory = max((one.memory for one in self.outcomes), default=0) / GIGABYTE
        return name, count + state, _number(seconds, 1), _number(memory, 2)

    def look(self) -> str:
        """Return the look of the worst that became of a stage."""
        worst = max(self.outcomes, key=lambda one: list(LOOKS).index(one.what), default=None)
        return LOOKS[worst.what] if worst else "dim"


class Screen(Lines):
    """A table of all stages that fills while they run; of a matrix one row."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rows: dict[str, _Row] = {}
        self._now, self._since, self._status = "", 0.0, ""
        self._heard: deque[str] = deque(maxlen=KEPT)

    def planned(self, stages: list[str]) -> None:
        """Show all that is ahead."""
        super().planned(stages)
        for stage in stages:
            self._rows.setdefault(_entry(stage), _Row()).total += 1

    def began(self, stage: str) -> None:
        """Show what is at work."""
        self._now, self._since, self._status = stage, time.perf_counter(), ""
        self._heard.clear()

    def heard(self, line: str) -> None:
        """Show the last that the stage at work has said."""
        self._status = line
        self._heard.append(line)

    def waits(self, why: str) -> None:
        """Show who is in the way."""
        self._status = f"waiting: {' '.join(why.split())}"

    def ended(self, outcome: Outcome) -> None:
        """Fill in what became of it; of what failed show the last that it has said."""
        self.outcomes.append(outcome)
        self._rows.setdefault(_entry(outcome.stage), _Row()).outcomes.append(outcome)
        self._now, self._status = "", ""
        if outcome.what == "failed":
            self._console.print(Text("\n".join(self._heard)))

    def __rich__(self) -> Group:
        """Return what the screen shows now."""
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right"):
            table.add_column(justify=justify)
        table.add_row("stage", "", "s", "GB", style="bold")
        for name, row in self._rows.items():
            now = self._now if _entry(self._now) == name else ""
            cells = row.cells(self._name(name), now, time.perf_counter() - self._since)
            table.add_row(*cells, style="bold" if now else row.look())
        return Group(table, Text(self._status, "dim", no_wrap=True, overflow="ellipsis"))


@contextmanager
def shown(plain: bool = False) -> Iterator[Lines]:
    """Yield what is to be told of a run: a screen on a terminal, else lines, or if `plain`."""
    logging.getLogger("dvc").setLevel(logging.WARNING)
    if plain or not sys.stdout.isatty() or sys.platform == "win32":
        logging.getLogger("kedro").setLevel(logging.WARNING)
        yield Lines(Console())
        return
    holder: list[Screen] = []
    with taken_off(lambda line: holder[0].heard(line)) as terminal:
        console = Console(file=terminal)
        holder.append(Screen(console))
        # What is written has been taken off already: Live would put it on the screen.
        with Live(holder[0], console=console, redirect_stdout=False, redirect_stderr=False):
            yield holder[0]


def told(outcomes: list[Outcome], numbers: bool = True) -> str:
    """Return how many stages became what."""
    counts = Counter(one.what for one in outcomes)
    return ", ".join(
        f"{counts[what]} {what}" if numbers else what for what in LOOKS if counts[what]
    )


def _entry(stage: str) -> str:
    return stage.partition("@")[0]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value else ""


def _cost(outcome: Outcome) -> str:
    """Return the seconds and the memory of a stage that ran."""
    if not outcome.memory:
        return ""
    device = outcome.device_memory
    on_device = "" if device is None else f"  {device / GIGABYTE:.2f} GB on the GPU"
    return f"{outcome.seconds:7.1f} s  {outcome.memory / GIGABYTE:.2f} GB{on_device}"
