"""The most memory that a piece of work takes."""

from __future__ import annotations

import subprocess
import sys
import time

from kedro_dvc.run import SECONDS, Peak

MUCH = 300_000_000
HOLD = f"import time; held = bytearray({MUCH}); time.sleep({SECONDS * 6})"


def _looks() -> None:
    time.sleep(SECONDS * 4)


def test_memory_that_was_given_back_is_remembered():
    with Peak() as little:
        _looks()
    with Peak() as much:
        held = bytearray(MUCH)
        _looks()
        del held
        _looks()

    assert MUCH * 0.8 < much.memory - little.memory < MUCH * 1.5


def test_a_process_that_was_started_counts():
    with Peak() as little:
        _looks()
    with Peak() as much:
        subprocess.run([sys.executable, "-c", HOLD], check=True)

    assert MUCH * 0.8 < much.memory - little.memory < MUCH * 1.5


def test_without_a_gpu_nothing_is_told_of_one():
    with Peak() as peak:
        pass

    assert peak.device_memory is None
    assert peak.memory > 0
