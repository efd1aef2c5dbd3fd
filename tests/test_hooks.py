"""Tests of what the project adds to every Kedro run."""

from __future__ import annotations

import sys

from seuf.errors import InputError
from seuf.hooks import _one_line_for_input_errors


def test_an_input_error_is_one_line(capsys):
    _one_line_for_input_errors(*_raised(InputError("conf/x.yml is empty")))

    assert capsys.readouterr().err == "error: conf/x.yml is empty\n"


def test_an_input_error_inside_another_is_one_line(capsys):
    """Kedro wraps what a data set raises."""
    outer = RuntimeError("Failed while loading data")
    outer.__cause__ = InputError("line 3: not JSON")

    _one_line_for_input_errors(*_raised(outer))

    assert capsys.readouterr().err == "error: line 3: not JSON\n"


def test_a_bug_keeps_its_traceback(capsys):
    _one_line_for_input_errors(*_raised(ZeroDivisionError("oh")))

    assert "Traceback" in capsys.readouterr().err


def _raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()
