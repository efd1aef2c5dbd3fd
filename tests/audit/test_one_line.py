"""What is wrong with what a command was given is one line."""

import pytest

from seuf.audit.cli import exit_on_input_error
from seuf.inputs import InputError


def test_an_input_error_is_a_line_on_stderr_and_the_exit_code(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_input_error():
        raise InputError("no such method")

    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: no such method\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_input_error():
        raise ZeroDivisionError
