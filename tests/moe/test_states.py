"""Hidden states that are kept come back as they were, wherever they are kept."""

import logging
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.inputs import InputError
from seuf.moe.activations import HiddenStates

CPU = torch.device("cpu")
LENGTHS = st.dictionaries(st.integers(0, 99), st.integers(1, 6), min_size=1, max_size=8)


def states_of(lengths: dict[int, int], dtype: torch.dtype = torch.float32, **kept: int):
    """Return states of size 3 and what was put into them: random numbers, padded with 9s."""
    states = HiddenStates(lengths, 3, dtype, CPU, **kept)
    hidden = torch.randn(len(lengths), max(lengths.values()), 3).to(dtype)
    for row, length in zip(hidden, lengths.values(), strict=True):
        row[length:] = 9
    states.put(list(lengths), hidden)
    return states, hidden


@given(LENGTHS, st.sampled_from([torch.float32, torch.bfloat16]), st.booleans(), st.randoms())
def test_a_batch_is_what_was_put_in_padded_with_zeros(lengths, dtype, in_file, rng):
    states, hidden = states_of(lengths, dtype, **({"limit": 0} if in_file else {}))
    positions = list(lengths)
    some = rng.sample(positions, rng.randint(1, len(positions)))
    width = max(lengths[position] for position in some) + 1

    batch = states.batch(some, width)

    assert states.in_memory != in_file
    assert batch.dtype == dtype
    assert batch.shape == (len(some), width, 3)
    for row, position in zip(batch, some, strict=True):
        length = lengths[position]
        assert torch.equal(row[:length], hidden[positions.index(position)][:length])
        assert not row[length:].any()


def test_the_size_and_the_place_are_reported_before_anything_is_kept(caplog):
    """Two samples of 3 + 5 tokens, size 1000, 2 bytes each: 16,000 bytes."""
    with caplog.at_level(logging.DEBUG, "seuf.moe.activations"):
        HiddenStates({0: 3, 1: 5}, 1000, torch.bfloat16, CPU)
        HiddenStates({0: 3, 1: 5}, 1000, torch.bfloat16, CPU, limit=15_999)

    assert caplog.messages == [
        "2 samples' hidden states: 1.6e-05 GB in memory",
        f"2 samples' hidden states: 1.6e-05 GB in a file in {tempfile.gettempdir()}",
    ]


def test_the_file_has_no_name_once_it_is_there(tmp_path, monkeypatch):
    """So nothing is left of it, however the process ends."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    states, hidden = states_of({4: 2}, limit=0)

    assert list(Path(tmp_path).iterdir()) == []
    assert torch.equal(states.sample(4), hidden[0])


def test_a_disk_without_room_is_refused_beforehand(monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100, 90, 10))

    with pytest.raises(InputError, match="set TMPDIR to a larger disk"):
        HiddenStates({0: 3}, 1000, torch.float32, CPU, limit=0)


def test_a_batch_of_another_number_of_samples_is_an_error():
    states, _ = states_of({0: 2, 1: 2})

    with pytest.raises(ValueError, match="zip"):
        states.put([0], torch.zeros(2, 2, 3))
