"""Ctrl-C comes when it does no harm."""

# ruff: noqa: PT012 - a block is what is interrupted

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from kedro_dvc.run import Interrupts


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def _press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_comes_at_once_where_it_is_welcome():
    interrupts, done = Interrupts(), []

    with pytest.raises(KeyboardInterrupt), interrupts.held(), interrupts.welcome():
        _press()
        done.append("after it")

    assert done == []


def test_elsewhere_it_waits_for_the_next_place():
    interrupts, done = Interrupts(), []

    with pytest.raises(KeyboardInterrupt), interrupts.held():
        _press()
        done.append("what must not be cut")
        with interrupts.welcome():
            done.append("a stage")

    assert done == ["what must not be cut"]


def test_it_comes_at_the_end_if_no_place_is_left():
    interrupts, done = Interrupts(), []

    with pytest.raises(KeyboardInterrupt):  # it must come after the inner block
        with interrupts.held():
            _press()
            done.append("all")
        done.append("after it")

    assert done == ["all"]


def test_the_second_does_not_wait():
    interrupts, done = Interrupts(), []

    with pytest.raises(KeyboardInterrupt), interrupts.held():
        _press()
        done.append("once")
        _press()
        done.append("twice")

    assert done == ["once"]
