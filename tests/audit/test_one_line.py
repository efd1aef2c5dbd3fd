"""What is wrong with what a command was given is one line."""

import pytest

from seuf.audit.cli import one_line_for_input_errors
from seuf.inputs import InputError


def test_an_input_error_is_a_line_on_stderr_and_the_exit_code(capsys):
    with pytest.raises(SystemExit) as ended, one_line_for_input_errors():
        raise InputError("no such method")

    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: no such method\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_line_for_input_errors():
        raise ZeroDivisionError
