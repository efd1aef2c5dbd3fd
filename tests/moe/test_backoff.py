"""Where memory runs out fewer samples pass at once, and nothing is done twice or left out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.moe.backoff import Backoff, is_out_of_memory, must_fit
from seuf.moe.batches import pad

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 80 GiB"


class Memory:
    """Work that fails if it is given more than fits; it notes the sizes that it was given."""

    def __init__(self, fits: int) -> None:
        self.fits, self.given = fits, list[int]()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.given.append(len(items))
        if len(items) > self.fits:
            raise torch.OutOfMemoryError(FULL)
        return [item * 10 for item in items]


@given(st.integers(0, 40), st.integers(1, 50))
def test_every_item_is_done_once_and_in_order(count, fits):
    done = list(Backoff("less").map_items(range(count), Memory(fits)))

    assert [item for part, _ in done for item in part] == list(range(count))
    assert [made for _, values in done for made in values] == [10 * n for n in range(count)]
    assert all(len(part) <= fits for part, _ in done)


def test_the_size_is_halved_and_remembered():
    """16 and 8 do not fit, 4 do: 4 times 4, and the next 6 as 4 and 2."""
    backoff, memory = Backoff("less"), Memory(fits=5)

    list(backoff.map_items(range(16), memory))
    list(backoff.map_items(range(6), memory))

    assert memory.given == [16, 8, 4, 4, 4, 4, 4, 2]


def test_a_part_that_fails_later_is_halved_from_what_it_was():
    """The last 3 fail where 4 did not: they go on as 1 each."""
    backoff, done = Backoff("less"), list[int]()

    def work(items: Sequence[int]) -> None:
        if 6 in items and len(items) > 1:
            raise torch.OutOfMemoryError(FULL)
        done.append(len(items))

    backoff.most = 4
    list(backoff.map_items(range(7), work))

    assert done == [4, 1, 1, 1]


def test_each_halving_is_told_in_one_line(caplog):
    list(Backoff("less").map_items(range(5), Memory(1)))

    assert caplog.messages == [
        "5 samples at once do not fit in memory, going on with 2",
        "2 samples at once do not fit in memory, going on with 1",
    ]


def test_one_that_does_not_fit_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError) as raised:
        list(Backoff("lower max_length").map_items([1, 2], Memory(0)))

    assert str(raised.value) == (
        "Not even one sample fits in memory (CUDA out of memory. Tried to allocate 2.00 GiB): "
        "lower max_length."
    )


def test_what_the_failed_attempt_had_made_is_free_before_the_next():
    """Else there would be no more room than before."""
    made: list[weakref.ref] = []

    def work(items: Sequence[int]) -> None:
        assert all(one() is None for one in made)
        tensor = torch.zeros(3)
        made.append(weakref.ref(tensor))
        if len(items) > 1:
            raise torch.OutOfMemoryError(FULL)

    gc.disable()
    try:
        list(Backoff("less").map_items(range(4), work))
    finally:
        gc.enable()

    assert len(made) == 6


def test_of_a_batch_rows_pass_with_their_positions():
    batch = pad([[1, 2, 3], [4, 5], [6]], padding=0, positions=[7, 1, 4])

    def work(part):
        if len(part.input_ids) > 2:
            raise torch.OutOfMemoryError(FULL)
        return part.input_ids.tolist()

    parts = list(Backoff("less").map_batch(batch, work))

    assert [made for _, made in parts] == [[[1, 2, 3]], [[4, 5, 0]], [[6, 0, 0]]]
    assert [part.positions for part, _ in parts] == [[7], [1], [4]]
    assert [part.attention_mask.tolist() for part, _ in parts] == [
        [[1, 1, 1]],
        [[1, 1, 0]],
        [[1, 0, 0]],
    ]


def test_work_that_is_told_a_size_begins_again_with_half():
    memory = Memory(fits=3)

    assert Backoff("less").call(16, lambda size: memory(range(size))) == [0, 10]
    assert memory.given == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't "
                      "allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)  # fmt: skip
def test_what_means_that_memory_has_run_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_allocator_of_the_cpu_says_what_is_looked_for():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)

    assert is_out_of_memory(raised.value)


def test_python_without_memory_gets_fewer_items_too():
    def work(items: Sequence[int]) -> int:
        if len(items) > 2:
            raise MemoryError
        return len(items)

    assert [done for _, done in Backoff("less").map_items(range(4), work)] == [2, 2]
    with pytest.raises(InputError, match="does not fit in memory"), must_fit("less"):
        work([1, 2, 3])


def test_other_errors_pass():
    def work(items: Sequence[int]) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(Backoff("less").map_items([1, 2], work))
    with pytest.raises(RuntimeError, match="a bug"), must_fit("less"):
        work([])


def test_what_must_fit_is_not_tried_again():
    with pytest.raises(InputError) as raised, must_fit("lower unlearning.batch_size"):
        Memory(0)([1])

    assert str(raised.value) == (
        "A step does not fit in memory (CUDA out of memory. Tried to allocate 2.00 GiB): "
        "lower unlearning.batch_size."
    )
