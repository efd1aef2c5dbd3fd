"""How torch makes its sums, which decides their last bits: CPU threads, and on a GPU the order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import deterministic as _deterministic

from seuf.errors import InputError

_filling: Any = _deterministic  # its one switch is no attribute that is declared

NO_SUCH_WAY = " does not have a deterministic implementation"


@dataclass(frozen=True)
class Arithmetic:
    """What torch is set to.

    Attributes:
        threads: Of the CPU.
        deterministic: Whether sums are made in one order, where torch has such a way.
    """

    threads: int
    deterministic: bool


_used: list[Arithmetic] = []  # by the last context that ended


def used() -> Arithmetic:
    """Return what the last `arithmetic` was set to, or what torch is set to if there was none."""
    return _used[-1] if _used else _current()


def forget() -> None:
    """Let `used` know of no context that has ended."""
    _used.clear()


@contextmanager
def arithmetic(threads: int, deterministic: bool = False) -> Iterator[None]:
    """Set torch to this inside the context, and after it to what it was before.

    Args:
        threads: Of the CPU.
        deterministic: On a GPU one order of sums, so that two runs on it give the same bytes; the
            CPU has one order for each number of threads anyway. Bits are equal only if
            `CUBLAS_WORKSPACE_CONFIG` was set before CUDA was first used, as importing `seuf` does.

    Raises:
        InputError: If the model does what torch can only do in any order.
    """
    before, warn_only = _current(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _filling.fill_uninitialized_memory
    torch.set_num_threads(threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)  # warnings only: attention stays as it was
        _filling.fill_uninitialized_memory = False  # a check for programmers, which takes time
    try:
        yield
    except RuntimeError as error:
        if deterministic and NO_SUCH_WAY in str(error):
            what = str(error).partition(NO_SUCH_WAY)[0]
            raise InputError(f"{what} has no order: set unlearning.deterministic: false") from error
        raise
    finally:
        _used[:] = [_current()]
        torch.set_num_threads(before.threads)
        torch.use_deterministic_algorithms(before.deterministic, warn_only=warn_only)
        _filling.fill_uninitialized_memory = filled


def _current() -> Arithmetic:
    return Arithmetic(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
