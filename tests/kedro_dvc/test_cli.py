"""What a command says when DVC fails."""

import pytest
from dvc.exceptions import DvcException

from kedro_dvc.cli import _cause_alone
from kedro_dvc.files import WorkflowError


def test_what_made_dvc_fail_is_raised_with_its_own_cause():
    """The line for a user may stand there: a data set wraps what was wrong with its file."""
    inner = ValueError("the file is empty")
    outer = RuntimeError("cannot load")
    outer.__cause__ = inner

    with pytest.raises(RuntimeError, match="cannot load") as caught, _cause_alone():
        raise DvcException("failed to reproduce") from outer

    assert caught.value.__cause__ is inner


def test_where_dvc_itself_is_the_cause_its_words_are_enough():
    with pytest.raises(WorkflowError, match="is locked"), _cause_alone():
        raise DvcException("failed to reproduce") from DvcException("the file is locked")
