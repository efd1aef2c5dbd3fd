"""What a run shows: all stages on one screen of a terminal, elsewhere one line a stage.

While the screen is there, all that is written to the terminal goes to a temporary file instead, by
Python or not. Its last line is shown below the table; of a stage that fails, its last lines stay.
Warnings stay, too. Where there is no screen, as in a log, a line each minute names what is at work.
All that a stage writes which is not shown, here or in a process of its own, is kept in a file.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kedro_dvc.executors.jobs import KEPT, terminal_text
from kedro_dvc.executors.slurm import FOLDER as SLURM
from kedro_dvc.files import write_text
from kedro_dvc.project import dvc_file
from kedro_dvc.run import Outcome

STYLES = {
    "unchanged": "dim",
    "restored": "cyan",
    "noted": "cyan",
    "ran": "green",
    "stopped": "yellow",
    "failed": "bold red",
}
GIGABYTE = 1e9
SHOWN = 40  # lines of a stage that fails
BEAT = 60.0  # seconds between two lines on a stage that is at work, in a log
TAIL = 1 << 14  # bytes in which the last line is looked for
LOGS = Path(".dvc/tmp/kedro_dvc/output")  # a file a stage: what it wrote to the terminal


@contextmanager
def watching(plain: bool = False, recorded: Mapping[str, float] | None = None) -> Iterator[Lines]:
    """Yield the watcher of a run: a screen on a terminal, else lines, or if `plain`.

    Args:
        plain: Print lines on a terminal, too.
        recorded: Seconds that stages once took, by node; what is left is told from them.
    """
    logging.getLogger("dvc").setLevel(logging.WARNING)
    for name in ("dvc.progress", "dvc_data.callbacks"):  # no bars of what DVC hashes
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("dvc.output").addFilter(_is_not_of_an_empty_file)
    has_screen = sys.stdout.isatty() and not plain and sys.platform != "win32"
    if not has_screen or not sys.stderr.isatty():
        logging.getLogger("kedro").setLevel(logging.WARNING)
    if not has_screen:
        lines = Lines(Console(), recorded)
        with _dvc_by_itself(), lines.beating():
            yield lines
        return
    with tempfile.TemporaryFile() as output, _redirected(output) as terminal:
        console = Console(file=terminal)
        screen = Screen(console, output, recorded)
        live = Live(screen, console=console, redirect_stdout=False, redirect_stderr=False)
        with live, _Warnings(console).shown():
            yield screen


def _is_not_of_an_empty_file(record: logging.LogRecord) -> bool:
    """DVC warns twice of an empty file; the node that reads it says whether it may be empty."""
    return not record.getMessage().endswith(" is empty.")


@contextmanager
def _dvc_by_itself() -> Iterator[None]:
    """Let DVC alone print its warnings inside the context, and not the project's logging again."""
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_objects", "dvc_data")]
    for logger in loggers:
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.propagate = True


@contextmanager
def _redirected(output: IO[bytes]) -> Iterator[IO[str]]:
    """Send to a file what stdout and stderr write to the terminal, by Python or not; yield that.

    What goes elsewhere, such as stderr with `2> errors`, goes there still.
    """
    to_terminal = [(1, sys.stdout), (2, sys.stderr)]
    redirected = [
        (number, stream, os.dup(number)) for number, stream in to_terminal if stream.isatty()
    ]
    with open(os.dup(1), "w", encoding="utf-8") as terminal:  # noqa: PTH123 - a descriptor
        try:
            for number, stream, _ in redirected:
                stream.flush()
                os.dup2(output.fileno(), number)
                stream.isatty = lambda: True  # type: ignore[method-assign] # progress bars go on
            yield terminal
        finally:
            for number, stream, original in redirected:
                stream.flush()
                os.dup2(original, number)
                os.close(original)
                del stream.isatty


class _Warnings(logging.Handler):
    """Prints warnings above the screen, where they stay."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(self.format(record), "yellow"), soft_wrap=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Print what is logged and what Python warns of inside the context."""
        logging.captureWarnings(True)
        logging.getLogger().addHandler(self)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)
            logging.captureWarnings(False)


class Lines:
    """One line for each stage that DVC is done with.

    Args:
        console: Where they go.
        recorded: Seconds that stages once took, by node.
    """

    def __init__(self, console: Console, recorded: Mapping[str, float] | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self._recorded: dict[str, float] = {}  # by the ends of the nodes' names that `_node` gives
        for node, seconds in (recorded or {}).items():
            parts = node.split(".")
            self._recorded |= {parts[-1]: seconds, ".".join(parts[-2:]): seconds}
        self._at_work: dict[str, float] = {}  # the stages, and since when
        self._console, self._width, self._file = console, 0, ""
        self.logs: set[Path] = set()  # the folders with what stages wrote

    def planned(self, stages: list[str]) -> None:
        """Make room for the names; the file is left out where it is the same for all."""
        files = {stage.rpartition(":")[0] for stage in stages}
        self._file = f"{files.pop()}:" if len(files) == 1 else ""
        self._width = max((len(self._name(stage)) for stage in stages), default=0)

    def began(self, stage: str) -> None:
        """Say nothing yet."""
        self._at_work[stage] = time.perf_counter()

    @contextmanager
    def beating(self, every: float = BEAT) -> Iterator[None]:
        """Name the stages at work each minute, so that a log shows that a long one goes on."""
        end = threading.Event()

        def beat() -> None:
            while not end.wait(every):
                for stage, since in list(self._at_work.items()):
                    text = f"{self._name(stage)} at work for {time.perf_counter() - since:.0f} s"
                    if seconds := self._recorded.get(_node(stage)):
                        text += f", recorded with {seconds:.0f} s"
                    self._console.print(Text(text, "dim"), soft_wrap=True)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def waits(self, why: str) -> None:
        """Say who is in the way."""
        self._console.print(Text(f"waiting: {' '.join(why.split())}"), soft_wrap=True)

    def ended(self, outcome: Outcome) -> None:
        """Say what became of a stage, and of one that ran the seconds and the memory."""
        self.outcomes.append(outcome)
        self._at_work.pop(outcome.stage, None)
        text = f"{self._name(outcome.stage):{self._width}}  {outcome.what:9}"
        if outcome.memory:
            text += f"  {outcome.seconds:7.1f} s  {outcome.memory / GIGABYTE:.2f} GB"
        if outcome.memory and outcome.device_memory is not None:
            text += f"  {outcome.device_memory / GIGABYTE:.2f} GB on the GPU"
        self._tell_what_it_wrote(outcome, outcome.output)
        self._console.print(Text(text.rstrip(), STYLES[outcome.what]), soft_wrap=True)

    def _tell_what_it_wrote(self, outcome: Outcome, text: str | None) -> None:
        """Keep what a stage wrote; print the last of it if it failed, else its warnings."""
        log = log_of(outcome.stage)
        if text is not None and outcome.what in ("ran", "stopped", "failed"):
            with suppress(OSError):  # a full disk fails no stage
                write_text(log, f"{text}\n" if text else "")
                self.logs.add(log.parent)
        if outcome.what == "ran":
            for warning in outcome.warnings:
                said = f"{self._name(outcome.stage)}: {warning}"
                self._console.print(Text(said, "yellow"), soft_wrap=True)
        elif outcome.what == "failed" and text:
            lines = text.splitlines()
            self._console.print(Text("\n".join(lines[-SHOWN:])), soft_wrap=True)
            if len(lines) > SHOWN:
                self._console.print(Text(f"({log} has all {len(lines)} lines)"), soft_wrap=True)

    def _name(self, stage: str) -> str:
        return stage.removeprefix(self._file)


class Screen(Lines):
    """A table of all stages that fills while they run; of a matrix one row.

    Args:
        console: The terminal.
        output: Where all that stages write goes meanwhile.
        recorded: See `Lines`.
    """

    def __init__(
        self, console: Console, output: IO[bytes], recorded: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(console, recorded)
        self._ahead: dict[str, float | None] = {}  # stages not ended, and what each once took
        self._since = time.perf_counter()
        self._rows: dict[str, list[Outcome]] = {}  # by entry of dvc.yaml
        self._totals: Counter[str] = Counter()
        self._waits = ""
        self._output, self._start = output, 0

    def planned(self, stages: list[str]) -> None:
        """Show all that is ahead."""
        super().planned(stages)
        self._ahead = {stage: self._recorded.get(_node(stage)) for stage in stages}
        self._rows = {_entry(stage): [] for stage in stages}
        self._totals = Counter(map(_entry, stages))

    def began(self, stage: str) -> None:
        """Show what is at work."""
        self._at_work[stage], self._waits = time.perf_counter(), ""
        self._start = os.fstat(self._output.fileno()).st_size

    def waits(self, why: str) -> None:
        """Show who is in the way."""
        self._waits = f"waiting: {' '.join(why.split())}"

    def ended(self, outcome: Outcome) -> None:
        """Fill in what became of it; of what failed show the last that it wrote."""
        self.outcomes.append(outcome)
        self._rows[_entry(outcome.stage)].append(outcome)
        text = outcome.output
        if text is None:
            text = terminal_text(self._written(KEPT))
        self._tell_what_it_wrote(outcome, text)
        self._at_work.pop(outcome.stage, None)
        self._ahead.pop(outcome.stage, None)
        self._waits = ""

    def __rich__(self) -> Group:
        """Return what the screen shows now."""
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right"):
            table.add_column(justify=justify)
        table.add_row("stage", "", "s", "GB", style="bold")
        for entry in list(self._rows):
            self._add_row(table, entry)
        status = self._waits or self._last_line() if self._at_work else ""
        return Group(
            table, Text(self._total()), Text(status, "dim", no_wrap=True, overflow="ellipsis")
        )

    def _total(self) -> str:
        """Return how far the run is, and how long the rest took when it was recorded."""
        stages, seconds = sum(self._totals.values()), time.perf_counter() - self._since
        if not stages:
            return f"looking at what has changed, {seconds:.0f} s"
        text = f"{len(self.outcomes)} of {stages} stages, {seconds:.0f} s"
        known = {stage: taken for stage, taken in self._ahead.items() if taken is not None}
        if known:
            begun = {one: time.perf_counter() - since for one, since in self._at_work.items()}
            left = sum(max(0.0, taken - begun.get(one, 0.0)) for one, taken in known.items())
            text += f"; the rest took {left:.0f} s when it was recorded"
        if known and (new := len(self._ahead) - len(known)):
            text += f", without {new} not recorded"
        return text

    def _add_row(self, table: Table, entry: str) -> None:
        outcomes, total = list(self._rows[entry]), self._totals[entry]
        seconds = sum(one.seconds for one in outcomes)
        memory = max((one.memory for one in outcomes), default=0) / GIGABYTE
        at_work = {one: since for one, since in self._at_work.items() if _entry(one) == entry}
        if at_work:
            seconds += sum(time.perf_counter() - since for since in at_work.values())
            state, style = f"▶ {', '.join(one.partition('@')[2] for one in at_work)}", "bold"
        else:
            state = summary(outcomes, numbers=total > 1)
            worst = max((one.what for one in outcomes), key=list(STYLES).index, default="unchanged")
            style = STYLES[worst]
        count = f"{len(outcomes)}/{total}  " if total > 1 else ""
        numbers = (f"{seconds:.1f}" if seconds else "", f"{memory:.2f}" if memory else "")
        table.add_row(self._name(entry), count + state, *numbers, style=style)

    def _last_line(self) -> str:
        """Return the last line that the stage at work has written, of a bar its last state."""
        return terminal_text(self._written(TAIL)).rpartition("\n")[2]

    def _written(self, most: int) -> bytes:
        size = os.fstat(self._output.fileno()).st_size
        start = max(self._start, size - most)
        return os.pread(self._output.fileno(), size - start, start)


def log_of(stage: str) -> Path:
    """Return the file with what a stage wrote to the terminal when it last ran."""
    file, _, name = stage.rpartition(":")
    return LOGS / Path(file).parent / f"{name.replace('/', '_')}.log"


def forget_logs(study: str) -> None:
    """Delete what is kept of what a study's stages wrote: it may hold what their data held."""
    for log in log_of(f"{dvc_file(study)}:any").parent.glob("*.log"):
        log.unlink(missing_ok=True)
    for pattern in ("*_log.*", "*_result.pkl"):  # submitit's, of all studies
        for log in Path(SLURM).glob(pattern):
            log.unlink(missing_ok=True)


def summary(outcomes: list[Outcome], numbers: bool = True) -> str:
    """Return how many stages became what."""
    counts = Counter(one.what for one in outcomes)
    return ", ".join(
        f"{counts[what]} {what}" if numbers else what for what in STYLES if counts[what]
    )


def _node(stage: str) -> str:
    """Return the end of the name of the node that a stage runs: `a.train` for `train-2@a`."""
    name, _, item = stage.rpartition(":")[2].partition("@")
    name = re.sub(r"-\d+$", "", name)
    return f"{item}.{name}" if item else name


def _entry(stage: str) -> str:
    return stage.partition("@")[0]
