"""What a run shows, on a terminal and elsewhere."""

from __future__ import annotations

import inspect
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import StringIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from dvc import output as dvc_output
from rich.console import Console

from kedro_dvc import watch
from kedro_dvc.executors.jobs import CONTROL
from kedro_dvc.files import write_text
from kedro_dvc.run import Outcome
from kedro_dvc.watch import LOGS, Lines, Screen, forget_logs, log_of, summary, watching
from tests.waiting import until

STAGES = ["x/dvc.yaml:prepare", "x/dvc.yaml:train@a", "x/dvc.yaml:train@b", "x/dvc.yaml:report"]
PREPARED = Outcome(STAGES[0], "unchanged", 0.1)
TRAINED = Outcome(STAGES[1], "ran", 12.34, 1_500_000_000)
ON_A_GPU = Outcome(STAGES[2], "ran", 2.0, 2_000_000_000, 30_000_000_000)
FAILED = Outcome(STAGES[2], "failed", 2.0, 2_000_000_000)

ALL_WRITERS = """
import os, subprocess, sys
from kedro_dvc.run import Outcome
from kedro_dvc.watch import watching
with watching() as screen:
    screen.planned(["a"])
    print("before it began")
    screen.began("a")
    print("of python")
    sys.stderr.write("of \\x1b[31mcolour\\x1b[0m\\r\\n")
    subprocess.run(["sh", "-c", "echo of another"])
    sys.stderr.write("a bar\\ra longer bar\\n")
    print(sys.stdout.isatty(), sys.stderr.isatty())
    screen.ended(Outcome("a", "failed", 1.0))
print("after")
"""
MUCH_NOISE = """
import sys, threading, time
from kedro_dvc import watch
from kedro_dvc.watch import watching
end, console = threading.Event(), watch.Console
def slow_console(**options):
    time.sleep(0.3)
    return console(**options)
watch.Console = slow_console
def write():
    number = 0
    while not end.is_set() or number < 3000:
        sys.stderr.write(f"noise {number} {'.' * 80}\\n")
        number += 1
threading.Thread(target=write).start()
with watching() as screen:
    screen.planned(["a"])
    screen.began("a")
    time.sleep(0.5)
    end.set()
"""
WARNINGS = """
import logging, warnings
from kedro_dvc.run import Outcome
from kedro_dvc.watch import watching
logging.basicConfig(level=logging.INFO)
with watching() as screen:
    screen.planned(["a"])
    screen.began("a")
    logging.getLogger("node").info("by the way")
    logging.getLogger("node").warning("mind this")
    warnings.warn("and that")
    screen.ended(Outcome("a", "ran", 1.0))
"""
BARS = """
import time
from dvc.progress import Tqdm
from dvc_data.callbacks import Tqdm as OfData
from tqdm import tqdm
from kedro_dvc.watch import Screen, watching
draw, drawn = Screen.__rich__, []
def draw_and_count(screen):
    drawn.append(1)
    return draw(screen)
Screen.__rich__ = draw_and_count
with watching() as screen:
    screen.planned(["a"])
    screen.began("a")
    for bar in (tqdm(desc="a stage's"), Tqdm(desc="of DVC"), OfData(desc="of DVC")):
        bar.update()
        bar.refresh()
        before = len(drawn)
        while len(drawn) < before + 2:  # of these the last began after the bar
            time.sleep(0.01)
"""
WARNING_OF_DVC = """
import logging
import dvc.repo
from kedro_dvc.watch import watching
logging.basicConfig(format="%(message)s", force=True)
with watching():
    logging.getLogger("dvc.repo").warning("skipped")
    logging.getLogger("node").warning("and one of ours")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what stages wrote is kept."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A microsecond passes from look to look at the clock, however slow the machine is."""
    looks = count()
    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: next(looks) * 1e-6))


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=80, force_terminal=False)


@pytest.fixture
def output() -> Iterator[IO[bytes]]:
    """Where goes what stages write."""
    with tempfile.TemporaryFile() as file:
        yield file


def _write(output: IO[bytes], *lines: str) -> None:
    output.write("".join(f"{line}\n" for line in lines).encode())
    output.flush()


def _text(console: Console) -> list[str]:
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _drawn(screen: Screen) -> list[str]:
    console = Console(file=StringIO(), width=80, force_terminal=False)
    console.print(screen)
    return [line for line in _text(console) if line]


def test_a_line_tells_what_became_of_a_stage_and_what_it_took(console):
    lines = Lines(console)
    lines.planned(STAGES)
    for outcome in (PREPARED, TRAINED, ON_A_GPU):
        lines.ended(outcome)

    assert _text(console) == [
        "prepare  unchanged",
        "train@a  ran           12.3 s  1.50 GB",
        "train@b  ran            2.0 s  2.00 GB  30.00 GB on the GPU",
    ]


def test_a_log_names_what_is_at_work(console):
    """Each hundredth of a second instead of each minute."""
    lines = Lines(console, {"a.train": 34.0})
    lines.planned(STAGES)
    lines.began(STAGES[1])
    with lines.beating(0.01):
        until(lambda: _text(console))
    lines.ended(TRAINED)
    with lines.beating(0.01):
        time.sleep(0.05)

    told = _text(console)
    assert told[0] == "train@a at work for 0 s, recorded with 34 s"
    assert told[-1].startswith("train@a  ran")


def test_a_screen_tells_how_long_the_rest_took(console, output):
    """Of train@a 34 s are recorded, of train-2@b in its namespace 6; of the report nothing."""
    stages = [*STAGES[:2], "x/dvc.yaml:train-2@b", STAGES[3]]
    recorded = {"prepare": 5.0, "a.train": 34.0, "models.b.train": 6.0}
    screen = Screen(console, output, recorded)

    screen.planned(stages)
    screen.ended(PREPARED)

    assert _drawn(screen)[-2:] == [
        "1 of 4 stages, 0 s; the rest took 40 s when it was recorded, without 1 not",
        "recorded",
    ]


def test_a_node_of_a_namespace_that_is_no_item_is_known_by_its_name(console, output):
    screen = Screen(console, output, {"models.compare": 3.0})

    screen.planned(["x/dvc.yaml:compare"])

    assert _drawn(screen)[-1] == "0 of 1 stages, 0 s; the rest took 3 s when it was recorded"


def test_a_screen_without_stages_yet_says_what_goes_on(console, output):
    assert _drawn(Screen(console, output))[-1] == "looking at what has changed, 0 s"


def test_bars_of_dvc_are_not_the_last_line():
    """Both kinds that DVC has; the stage's own are."""
    shown = _on_a_terminal(BARS)

    assert "a stage's" in shown
    assert "of DVC" not in shown


def test_stages_of_several_files_keep_their_files(console):
    lines = Lines(console)
    lines.planned(["prepare", STAGES[1]])
    lines.ended(TRAINED)

    assert _text(console)[0].startswith("x/dvc.yaml:train@a  ran")


def test_who_is_in_the_way_is_told(console):
    Lines(console).waits("'data' is busy:\n  (PID 7): dvc repro")

    assert _text(console) == ["waiting: 'data' is busy: (PID 7): dvc repro"]


def test_the_screen_shows_all_stages_and_what_is_at_work(console, output):
    screen = Screen(console, output)
    screen.planned(STAGES)
    screen.ended(PREPARED)
    screen.ended(TRAINED)
    screen.began(STAGES[2])
    _write(output, "step 2 of 9", "step 3 of 9")

    drawn = _drawn(screen)

    assert [line.split() for line in drawn] == [
        ["stage", "s", "GB"],
        ["prepare", "unchanged", "0.1"],
        ["train", "1/2", "▶", "b", "12.3", "1.50"],
        ["report"],
        ["2", "of", "4", "stages,", "0", "s"],
        ["step", "3", "of", "9"],
    ]


def test_the_screen_shows_all_that_is_at_work_at_once(console, output):
    screen = Screen(console, output)
    screen.planned(STAGES)
    for stage in STAGES[:3]:
        screen.began(stage)
    screen.ended(TRAINED)

    states = {line.split()[0]: line.split()[1:-1] for line in _drawn(screen)[1:3]}
    assert states == {"prepare": ["▶"], "train": ["1/2", "▶", "b", "12.3"]}


def test_what_a_stage_of_another_process_wrote_last_is_shown_if_it_failed(console, output):
    failed = FAILED._replace(output="the reason")
    lines = Lines(console)
    lines.planned(STAGES)
    lines.ended(failed)
    screen = Screen(console, output)
    screen.planned(STAGES)
    screen.ended(failed)

    first, second, third = _text(console)
    assert (first, third) == ("the reason", "the reason")
    assert second.startswith("train@b  failed")


@pytest.mark.parametrize("what", ["ran", "failed"])
def test_all_that_a_stage_of_another_process_wrote_is_kept_in_a_file(console, what):
    """Of 42 lines a failure shows the last 40 and where the others are; a success its warnings."""
    said = "\n".join(f"line {n}" for n in range(42))
    lines = Lines(console)
    lines.planned(STAGES)
    lines.ended(FAILED._replace(what=what, output=said, warnings=["mind this"]))

    log = log_of(STAGES[2])
    assert log == Path(".dvc/tmp/kedro_dvc/output/x/train@b.log")
    assert log.read_text() == f"{said}\n"
    assert lines.logs == {log.parent}
    shown = _text(console)[:-1]
    if what == "ran":
        assert shown == ["train@b: mind this"]
    else:
        assert shown == [*said.splitlines()[2:], f"({log} has all 42 lines)"]


def test_nothing_that_a_stopped_stage_wrote_is_shown(console):
    lines = Lines(console)
    lines.planned(STAGES)
    lines.ended(FAILED._replace(what="stopped", output="half a line"))

    assert log_of(STAGES[2]).read_text() == "half a line\n"
    assert [line.split()[:2] for line in _text(console)] == [["train@b", "stopped"]]


def test_what_a_stage_wrote_under_the_screen_is_kept_in_a_file(console, output):
    screen = Screen(console, output)
    screen.planned(STAGES)
    screen.began(STAGES[1])
    _write(output, "\x1b[31mreading\x1b[0m", "", "1 %\r100 %")
    screen.ended(TRAINED)

    assert log_of(STAGES[1]).read_text() == "reading\n100 %\n"
    assert _text(console) == []


def test_what_stages_wrote_is_forgotten_study_by_study(console):
    for stage in (STAGES[0], "studies/mine/dvc.yaml:prepare", "dvc.yaml:prepare"):
        Lines(console).ended(Outcome(stage, "ran", 1.0, output="a secret"))

    sent = Path(".dvc/tmp/kedro_dvc/slurm/7_0_result.pkl")
    write_text(sent, "a secret")

    forget_logs("mine")
    assert not sent.exists()
    assert [path.parent.name for path in sorted(LOGS.rglob("*.log"))] == ["output", "x"]
    forget_logs("base")
    assert [path.parent.name for path in LOGS.rglob("*.log")] == ["x"]


def test_dvc_alone_prints_its_warnings_in_a_log():
    """The project's logging has them else again, without the prefix."""
    ended = subprocess.run(
        [sys.executable, "-c", WARNING_OF_DVC], capture_output=True, text=True, check=True
    )

    assert ended.stderr.splitlines() == ["WARNING: skipped", "and one of ours"]


def test_of_what_failed_the_last_words_are_shown(console, output):
    screen = Screen(console, output)
    screen.planned(STAGES)
    _write(output, "of another stage")
    screen.began(STAGES[2])
    _write(output, "reading", "no such file")
    screen.ended(FAILED)

    assert _text(console) == ["reading", "no such file"]
    assert ["train", "1/2", "1", "failed", "2.0", "2.00"] in [x.split() for x in _drawn(screen)]


def test_the_end_is_told_in_numbers():
    assert summary([PREPARED, TRAINED, ON_A_GPU, FAILED]) == "1 unchanged, 2 ran, 1 failed"


def test_all_that_is_written_while_the_screen_is_there_is_kept_from_it(tmp_path):
    """By Python or not, bars too; a stage that fails has its own lines printed."""
    lines = _on_a_terminal(ALL_WRITERS).splitlines()

    begin = lines.index("of python")
    assert lines[begin : begin + 5] == [
        "of python",
        "of colour",
        "of another",
        "a longer bar",
        "True True",
    ]
    assert "before it began" not in lines
    assert lines[-1] == "after"


def test_a_writer_does_not_wait_for_the_screen():
    """It begins before the screen, which takes a moment, and ends after it."""
    shown = _on_a_terminal(MUCH_NOISE)

    assert "stage" in shown
    assert "noise" in shown


def test_stderr_that_goes_elsewhere_goes_there_still(tmp_path):
    lines = _on_a_terminal(ALL_WRITERS, stderr=tmp_path / "errors").splitlines()

    assert "of colour\na bar\n" in (tmp_path / "errors").read_text()
    assert lines[lines.index("of python") :][:3] == ["of python", "of another", "True False"]


def test_warnings_stay_on_the_terminal():
    """Of all else only the last line is shown, below the table, until the next."""
    lines = _on_a_terminal(WARNINGS).splitlines()

    assert lines.count("mind this") == 1
    assert sum(line.endswith("UserWarning: and that") for line in lines) == 1
    assert "by the way" not in lines


def _on_a_terminal(script: str, stderr: Path | None = None) -> str:
    """Return what a script shows on a terminal, without colours and moves of the cursor."""
    pid, terminal = pty.fork()
    if pid == 0:
        if stderr is not None:
            os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
        os.execv(sys.executable, [sys.executable, "-c", script])
    text = b""
    try:
        while piece := os.read(terminal, 4096):
            text += piece
    except OSError:  # the other end is closed
        pass
    os.waitpid(pid, 0)
    os.close(terminal)
    return CONTROL.sub("", text.decode()).replace("\r", "")


def test_dvc_does_not_tell_of_an_empty_file_beside_the_node_that_reads_it(caplog, monkeypatch):
    """The words are those of the installed DVC."""
    words = "'%s' is empty."
    assert words in inspect.getsource(dvc_output)
    monkeypatch.setattr(dvc_output.logger, "filters", [])
    monkeypatch.setattr(dvc_output.logger, "handlers", [caplog.handler])

    with watching(plain=True):
        dvc_output.logger.warning(words, "a.csv")
        dvc_output.logger.warning("'%s' is gone.", "a.csv")

    assert caplog.messages == ["'a.csv' is gone."]
