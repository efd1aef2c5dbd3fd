"""What a run shows."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from kedro_dvc.run import Outcome
from kedro_dvc.watch import Lines, Screen, told

STAGES = ["x/dvc.yaml:prepare", "x/dvc.yaml:train@a", "x/dvc.yaml:train@b", "x/dvc.yaml:report"]
PREPARED = Outcome(STAGES[0], "unchanged", 0.1)
TRAINED = Outcome(STAGES[1], "ran", 12.34, 1_500_000_000)
ON_A_GPU = Outcome(STAGES[2], "ran", 2.0, 2_000_000_000, 30_000_000_000)
FAILED = Outcome(STAGES[2], "failed", 2.0, 2_000_000_000)


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=80)


def _text(console: Console) -> list[str]:
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _drawn(screen: Screen) -> list[str]:
    console = Console(file=StringIO(), width=80)
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


def test_stages_of_several_files_keep_their_files(console):
    lines = Lines(console)
    lines.planned(["prepare", STAGES[1]])
    lines.ended(TRAINED)

    assert _text(console)[0].startswith("x/dvc.yaml:train@a  ran")


def test_who_is_in_the_way_is_told(console):
    Lines(console).waits("'data' is busy:\n  (PID 7): dvc repro")

    assert _text(console) == ["waiting: 'data' is busy: (PID 7): dvc repro"]


def test_the_screen_shows_all_stages_and_what_is_at_work(console):
    screen = Screen(console)
    screen.planned(STAGES)
    screen.ended(PREPARED)
    screen.ended(TRAINED)
    screen.began(STAGES[2])
    screen.heard("step 3 of 9")

    drawn = _drawn(screen)

    assert [line.split() for line in drawn] == [
        ["stage", "s", "GB"],
        ["prepare", "unchanged", "0.1"],
        ["train", "1/2", "▶", "b", "12.3", "1.50"],
        ["report"],
        ["step", "3", "of", "9"],
    ]


def test_of_what_failed_the_last_words_are_shown(console):
    screen = Screen(console)
    screen.planned(STAGES)
    screen.began(STAGES[2])
    for line in ("reading", "no such file"):
        screen.heard(line)
    screen.ended(FAILED)

    assert _text(console) == ["reading", "no such file"]
    assert ["train", "1/2", "1", "failed", "2.0", "2.00"] in [x.split() for x in _drawn(screen)]


def test_the_end_is_told_in_numbers():
    assert told([PREPARED, TRAINED, ON_A_GPU, FAILED]) == "1 unchanged, 2 ran, 1 failed"
