"""The number of threads is a setting of a run, not of what comes after it."""

import pytest
import torch

from seuf.moe.threads import threads


def test_threads_are_as_before_after_it():
    with threads(2):
        assert torch.get_num_threads() == 2

    assert torch.get_num_threads() == 1


def test_threads_are_as_before_after_an_error():
    with pytest.raises(KeyError), threads(2):
        raise KeyError

    assert torch.get_num_threads() == 1
