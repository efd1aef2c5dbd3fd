"""How torch makes its sums is a setting of a run, not of what comes after it."""

import subprocess
import sys

import pytest
import torch

from seuf.errors import InputError
from seuf.moe.arithmetic import Arithmetic, arithmetic, used


def state():
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("deterministic", [False, True])
def test_it_is_as_asked_inside_and_as_before_afterwards(deterministic):
    with arithmetic(2, deterministic):
        assert state() == (2, deterministic)

    assert state() == (1, False)


def test_it_is_as_before_after_an_error():
    with pytest.raises(KeyError), arithmetic(2, deterministic=True):
        raise KeyError

    assert state() == (1, False)


def test_what_torch_can_only_do_in_any_order_is_refused_with_what_to_set():
    message = "put_ does not have a deterministic implementation, but you set 'torch.use_..."

    with (
        pytest.raises(InputError, match=r"put_ has no order: set unlearning\.deterministic: false"),
        arithmetic(1, deterministic=True),
    ):
        raise RuntimeError(message)


@pytest.mark.parametrize("deterministic", [False, True])
def test_other_errors_are_what_they_are(deterministic):
    with pytest.raises(RuntimeError, match="out of memory"), arithmetic(1, deterministic):
        raise RuntimeError("CUDA out of memory")


def test_what_was_deterministic_before_stays_so():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with arithmetic(1):
            assert torch.are_deterministic_algorithms_enabled()
        with arithmetic(1, deterministic=True):
            pass

        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_was_used_is_known_afterwards():
    with arithmetic(2, deterministic=True):
        pass

    assert used() == Arithmetic(2, deterministic=True)


def test_before_any_context_it_is_what_torch_is_set_to():
    code = "import torch; torch.set_num_threads(3); from seuf.moe.arithmetic import used"
    made = subprocess.run(
        [sys.executable, "-c", f"{code}; print(used().threads)"], capture_output=True, text=True
    )

    assert made.stdout == "3\n"
