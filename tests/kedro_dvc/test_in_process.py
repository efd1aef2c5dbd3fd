"""A stage's command in this process: which are run here, what Ctrl-C stops, what is measured."""

# ruff: noqa: PT012 - a block is what is interrupted

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kedro_dvc.in_process import InProcess, Interrupts
from kedro_dvc.project import dvc_file, synced_studies
from kedro_dvc.resources import INTERVAL, MemoryPeak
from tests.waiting import until

ROOT = Path(__file__).parents[2]
MUCH = 300_000_000
HOLD = f"held = bytearray({MUCH}); input()"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would have been run."""
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(InProcess, "_run", lambda self, *what: made.append(what))
    monkeypatch.setattr(InProcess, "_guard", lambda self, *what: made.append(what))
    return made


@pytest.mark.parametrize("study", synced_studies(ROOT))
def test_every_command_of_a_dvc_yaml_is_run_here(study, calls):
    stages = yaml.safe_load((ROOT / dvc_file(study)).read_text())["stages"]

    for stage in stages.values():
        assert InProcess(ROOT)(stage["cmd"])

    assert {what[0] for what in calls} == {study}
    assert len(calls) == len(stages)


@pytest.mark.parametrize(
    "command",
    [
        "echo kedro run",
        "kedro run",
        "kedro run --nodes x",
        "kedro run --pipelines a --nodes b -e x",
    ],
)
def test_another_command_is_left_to_dvc(command, calls):
    assert not InProcess(ROOT)(command)
    assert calls == []


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """The handler of Ctrl-C, which is as it was in the end."""
    before = signal.getsignal(signal.SIGINT)
    yield Interrupts()
    assert signal.getsignal(signal.SIGINT) is before


def _press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_comes_at_once_where_it_is_allowed(interrupts):
    done = []

    with pytest.raises(KeyboardInterrupt), interrupts.deferred(), interrupts.allowed():
        _press()
        done.append("after it")

    assert done == []


def test_elsewhere_an_interrupt_waits_for_the_next_such_place(interrupts):
    done = []

    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        _press()
        done.append("what must not be cut")
        with interrupts.allowed():
            done.append("a stage")

    assert done == ["what must not be cut"]


def test_an_interrupt_comes_at_the_end_if_no_such_place_is_left(interrupts):
    done = []

    with pytest.raises(KeyboardInterrupt):  # it must come after the inner block
        with interrupts.deferred():
            _press()
            done.append("all")
        done.append("after it")

    assert done == ["all"]


def test_the_second_interrupt_does_not_wait(interrupts):
    done = []

    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        _press()
        done.append("once")
        _press()
        done.append("twice")

    assert done == ["once"]


def test_memory_that_was_given_back_is_remembered():
    with MemoryPeak() as little:
        until(lambda: little.resident)
    with MemoryPeak() as much:
        held = bytearray(MUCH)
        until(lambda: much.resident > little.resident + MUCH * 0.8)
        del held
        time.sleep(INTERVAL * 4)

    assert MUCH * 0.8 < much.resident - little.resident < MUCH * 1.5


def test_a_process_that_was_started_counts():
    with MemoryPeak() as little:
        until(lambda: little.resident)
    with (
        MemoryPeak() as much,
        subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE) as other,
    ):
        until(lambda: much.resident > little.resident + MUCH * 0.8)
        other.communicate(b"\n")

    assert MUCH * 0.8 < much.resident - little.resident < MUCH * 1.5


def test_without_a_gpu_nothing_is_told_of_one():
    with MemoryPeak() as peak:
        pass

    assert peak.on_device is None
    assert peak.resident > 0
