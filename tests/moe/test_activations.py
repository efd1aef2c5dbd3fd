"""Hidden states come back as they were kept, and layers below a change run once for each batch."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seuf.inputs import InputError
from seuf.moe import activations
from seuf.moe.activations import HiddenStates, SharedPrefix
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import Batch
from seuf.moe.forward import stop_after
from tests.tiny import inputs_of, last_layer, tiny_batch, tiny_model

CPU = torch.device("cpu")
LENGTHS = st.dictionaries(st.integers(0, 99), st.integers(1, 6), min_size=1, max_size=8)


def states_of(lengths: dict[int, int], dtype: torch.dtype = torch.float32, **kept: int):
    """Return states of size 3 and what was put into them: random numbers, padded with 9s."""
    states = HiddenStates(lengths, 3, dtype, CPU, **kept)
    hidden = torch.randn(len(lengths), max(lengths.values()), 3).to(dtype).float()
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


@given(LENGTHS, st.sampled_from([torch.float32, torch.bfloat16]), st.randoms())
def test_what_stays_on_its_device_is_what_was_put_in_padded_with_zeros(lengths, dtype, rng):
    """As a GPU with room keeps it; a millionth of that room is too little for any of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activations, "eighth_of_free_memory", lambda device: 10**6)
        states, hidden = states_of(lengths, dtype)
        none_has_room, _ = states_of(lengths, share=10**6)
    positions = list(lengths)
    some = rng.sample(positions, rng.randint(1, len(positions)))

    batch = states.batch(some, max(lengths.values()) + 1)

    assert states.stays
    assert not none_has_room.stays
    for row, position in zip(batch, some, strict=True):
        length = lengths[position]
        assert torch.equal(row[:length], hidden[positions.index(position)][:length])
        assert not row[length:].any()
        assert torch.equal(states.sample(position), row[:length])


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


def count_of_first_layer(model: nn.Module) -> list[int]:
    """Return a list that grows each time the first layer computes something."""
    ran = []
    first = next(decoder(model).layers[0].children())
    first.register_forward_pre_hook(lambda module, args: ran.append(1))
    return ran


def change(model: nn.Module) -> None:
    """Change the last MoE layer."""
    with torch.no_grad():
        moe_layers(model)[-1].experts.down_proj.mul_(1.5)


@pytest.mark.parametrize("use_cache", [False, None])
@torch.no_grad()
def test_a_changed_model_gives_what_it_gives_alone_and_runs_the_lower_layers_once(model, use_cache):
    """lm-evaluation-harness leaves `use_cache` to the configuration."""
    batches = [tiny_batch(seed=seed) for seed in (0, 1)]
    shared = SharedPrefix(model, last_layer(model))
    with shared:
        before = [model(**inputs_of(b), use_cache=use_cache).logits for b in batches]
    change(model)
    expected = [model(**inputs_of(b), use_cache=use_cache).logits for b in batches]
    ran = count_of_first_layer(model)

    with shared:
        now = [model(**inputs_of(b), use_cache=use_cache).logits for b in batches]

    assert ran == []
    for one, other, old in zip(now, expected, before, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, old)


@torch.no_grad()
def test_the_same_tokens_under_another_mask_are_another_batch(model):
    right = tiny_batch()
    whole = Batch(right.input_ids, torch.ones_like(right.input_ids))

    with SharedPrefix(model, 1):
        for batch in (right, whole, right, whole):
            shared = model(**inputs_of(batch), use_cache=False).logits
    expected = model(**inputs_of(whole), use_cache=False).logits

    assert torch.equal(shared, expected)


@torch.no_grad()
def test_the_same_tokens_at_other_positions_are_another_batch():
    """As attention goes by distances one token is moved away from the others."""
    model = tiny_model("mixtral")
    ids, near = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1, 2]])
    far = torch.tensor([[0, 1, 9]])
    with torch.no_grad():
        alone = [model(input_ids=ids, position_ids=places).logits for places in (near, far)]

    with SharedPrefix(model, 1), torch.no_grad():
        together = [model(input_ids=ids, position_ids=places).logits for places in (near, far)]

    assert not torch.equal(*alone)
    assert all(map(torch.equal, alone, together))


@torch.no_grad()
def test_tensors_are_read_once_and_again_when_they_have_changed(model, monkeypatch):
    """What is called with the tensors of before need not be compared: a GPU need not wait."""
    batch, read = tiny_batch(), []
    blake2b = hashlib.blake2b

    def noted(given):
        read.append(given)
        return blake2b(given)

    monkeypatch.setattr(hashlib, "blake2b", noted)

    with SharedPrefix(model, 1) as shared:
        for _ in range(3):
            model(input_ids=batch.input_ids, use_cache=False)
        assert len(read) == 1
        model(input_ids=batch.input_ids.clone(), use_cache=False)  # of the same bytes
        assert (len(read), len(shared._kept)) == (2, 1)
        batch.input_ids[0, 0] += 1
        now = model(input_ids=batch.input_ids, use_cache=False).logits

    assert torch.equal(now, model(input_ids=batch.input_ids, use_cache=False).logits)


@torch.no_grad()
def test_a_pass_that_ends_above_the_layer_is_shared_too(model):
    ran = count_of_first_layer(model)

    with SharedPrefix(model, 1):
        for _ in range(3):
            with stop_after(model, 1):
                decoder(model)(**inputs_of(tiny_batch()), use_cache=False)

    assert len(ran) == 1


def test_training_passes_are_left_alone(model):
    """With gradients the lower layers may be what is trained."""
    ran = count_of_first_layer(model)

    with SharedPrefix(model, 1):
        for _ in range(2):
            model(**inputs_of(tiny_batch()), use_cache=False)

    assert len(ran) == 2


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_next", "jamba"])
@torch.no_grad()
def test_generation_is_left_alone(model_type):
    """Greedy answers are the same with and without."""
    model, prompt = tiny_model(model_type), torch.tensor([[5, 6, 7]])
    expected = model.generate(prompt, max_new_tokens=5, do_sample=False)

    with SharedPrefix(model, 1):
        model(prompt)
        answers = [model.generate(prompt, max_new_tokens=5, do_sample=False) for _ in range(2)]

    assert all(torch.equal(answer, expected) for answer in answers)


@torch.no_grad()
def test_what_finds_no_room_is_computed_again():
    """Six samples of 12 tokens, 32 wide, 4 bytes each: 9216 bytes."""
    model = tiny_model("mixtral")
    assert tiny_batch().input_ids.shape == (6, 12)

    for limit, runs in ((9216, 1), (9215, 2)):
        ran = count_of_first_layer(model)
        with SharedPrefix(model, 1, limit=limit):
            for _ in range(2):
                model(**inputs_of(tiny_batch()), use_cache=False)
        assert len(ran) == runs


def test_the_model_is_left_as_it_was(model):
    forward = decoder(model).forward

    with pytest.raises(ZeroDivisionError), SharedPrefix(model, 1):
        _ = 1 / 0

    assert decoder(model).forward == forward
    assert "forward" not in vars(decoder(model))


@torch.no_grad()
def test_what_enters_several_layers_is_kept_from_one_pass(model):
    """The highest is the one that may change; later a lower one takes its place."""
    batch, layers = tiny_batch(), range(1, len(decoder(model).layers))
    shared = SharedPrefix(model, max(layers), others=layers)
    with shared:
        model(**inputs_of(batch), use_cache=False)
    ran = count_of_first_layer(model)

    for layer in layers:
        expected = model(**inputs_of(batch), use_cache=False).logits
        before = len(ran)
        shared.layer_index = layer
        with shared:
            again = model(**inputs_of(batch), use_cache=False).logits
        assert len(ran) == before
        assert torch.equal(again, expected)


@torch.no_grad()
def test_nothing_is_kept_of_what_enters_a_layer_above_the_one_that_changes():
    model, batch = tiny_model("mixtral", num_hidden_layers=3), tiny_batch()
    shared = SharedPrefix(model, 2, others=[1])
    shared.layer_index = 1
    weight = moe_layers(model)[1].experts.down_proj
    with shared:
        weight.mul_(2)
        model(**inputs_of(batch), use_cache=False)
        weight.mul_(0.5)
    expected = model(**inputs_of(batch), use_cache=False).logits

    shared.layer_index = 2
    with shared:
        now = model(**inputs_of(batch), use_cache=False).logits

    assert torch.equal(now, expected)
