"""The digest of a model: one bit makes another."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seuf.moe import digests
from seuf.moe.digests import (
    check_unchanged,
    checkpoint_dtypes,
    checkpoint_tensors,
    digest_of,
    model_digest,
    sum_of_bits,
    sums_of_bits,
)
from tests.tiny import tiny_model


def test_one_bit_makes_another_digest(model):
    digest = model_digest(model)

    with torch.no_grad():
        parameter = next(model.parameters())
        parameter.view(-1)[0] = torch.nextafter(parameter.view(-1)[0], torch.tensor(10.0))

    assert model_digest(model) != digest


def test_a_bias_that_steers_the_choice_is_part_of_the_model():
    """It is no parameter, but another bias is another model."""
    model = tiny_model("minimax_m2")
    digest = model_digest(model)

    model.model.layers[0].mlp.e_score_correction_bias[0] += 1

    assert model_digest(model) != digest


def test_it_is_written_down_what_is_digested():
    """SHA-256 over a line a tensor, sorted: key, type, shape, SHA-256 of the bytes."""
    tensors = {"b": torch.ones(2), "a": torch.zeros(1, 3, dtype=torch.bfloat16)}
    ones, zeros = torch.ones(2).numpy().tobytes(), bytes(6)
    lines = (
        f"a torch.bfloat16 [1, 3] {hashlib.sha256(zeros).hexdigest()}\n"
        f"b torch.float32 [2] {hashlib.sha256(ones).hexdigest()}\n"
    )

    assert digest_of(tensors.items()) == hashlib.sha256(lines.encode()).hexdigest()


def test_neither_order_nor_number_of_tensors_matters_to_how_it_is_made():
    """More than may wait at a time, forwards and backwards."""
    tensors = [(f"{n}", torch.full((3,), n)) for n in range(200)]

    assert digest_of(tensors) == digest_of(reversed(tensors))


def test_the_same_values_in_another_type_are_another_base():
    """Zeros have the same bytes in float16 and bfloat16; the digest reads the type too."""
    half, brain = (torch.zeros(2, dtype=dtype) for dtype in (torch.float16, torch.bfloat16))

    assert digest_of([("weight", half)]) != digest_of([("weight", brain)])


def test_a_model_is_read_again_only_if_it_was_written_to(monkeypatch, model):
    reads = []

    def counted(model: nn.Module):
        reads.append(model)
        return checkpoint_tensors(model)

    monkeypatch.setattr("seuf.moe.digests.checkpoint_tensors", counted)
    digest = model_digest(model)
    assert model_digest(model) == digest
    assert len(reads) == 1

    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert model_digest(model) != digest
    assert len(reads) == 2

    with torch.no_grad():
        next(model.parameters()).div_(2)
    check_unchanged(model, digest)
    assert model_digest(model) == digest
    assert len(reads) == 2


def test_what_a_fused_optimizer_writes_is_noticed():
    """It does not raise the version of what it writes."""
    model = tiny_model("mixtral")
    digest, weight = model_digest(model), model.lm_head.weight
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)

    version, weight.grad = weight._version, torch.ones_like(weight)
    optimizer.step()

    assert weight._version == version
    assert model_digest(model) != digest


@pytest.mark.parametrize("name", ["wg.weight", "lm_head.weight"])
def test_types_that_differ_from_most_are_told_by_key(name):
    model = tiny_model("hunyuan_v1_moe").bfloat16()
    for own, parameter in model.named_parameters():
        if own.endswith(name):
            parameter.data = parameter.data.float()

    dtypes = checkpoint_dtypes(model)

    assert dtypes.pop("default") == "bfloat16"
    assert dtypes
    assert all(key.endswith(name) and dtype == "float32" for key, dtype in dtypes.items())


@torch.no_grad()
def test_a_write_shows_in_the_sums_of_bits():
    """Float32 1.0 is 0x3f800000, 2.0 is 0x40000000; what is no eighth byte is filled up."""
    model = nn.Linear(2, 1)
    model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    model.bias.zero_()

    assert sums_of_bits(model) == {"weight": 0x400000003F800000, "bias": 0}

    model.bias.fill_(1.0)
    assert sums_of_bits(model) == {"weight": 0x400000003F800000, "bias": 0x3F800000}


@torch.no_grad()
def test_experts_that_change_places_show_in_the_sums_of_bits():
    """The bytes are the same, in another order."""
    model = tiny_model("mixtral")
    digest, experts = model_digest(model), model.model.layers[1].mlp.experts

    experts.down_proj.copy_(experts.down_proj[[1, 0, 2, 3]])

    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.experts\.down_proj"):
        check_unchanged(model, digest)


def test_a_sum_of_bits_weighs_each_number_by_its_position(monkeypatch):
    """Numbers 7, 0, 2 count once, three and five times: 7 + 10; in chunks of two the same."""
    model = nn.Module()
    model.register_buffer("numbers", torch.tensor([7, 0, 2]), persistent=False)

    assert sums_of_bits(model) == {"numbers": 17}
    monkeypatch.setattr(digests, "CHUNK", 2)
    assert sums_of_bits(model) == {"numbers": 17}


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=9), st.data())
def test_two_numbers_that_change_places_show(numbers, data):
    one, other = (data.draw(st.integers(0, len(numbers) - 1)) for _ in range(2))
    swapped = list(numbers)
    swapped[one], swapped[other] = swapped[other], swapped[one]

    same = sum_of_bits(torch.tensor(numbers)) == sum_of_bits(torch.tensor(swapped))

    # (a - b) * 2 (i - j) is 0 modulo 2**64 for a few far apart numbers alone
    difference = 2 * (numbers[one] - numbers[other]) * (one - other) % 2**64
    assert same == (difference == 0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["model.rotary_emb.inv_freq", "model.layers.0.mlp.gate.weight"])
def test_rows_that_change_places_and_buffers_are_noticed(name):
    model = tiny_model("qwen2_moe")
    digest = model_digest(model)

    tensor = dict([*model.named_buffers(), *model.named_parameters()])[name]
    tensor.copy_(tensor.flip(0))

    with pytest.raises(RuntimeError, match=name):
        check_unchanged(model, digest)


def test_what_is_offloaded_has_no_sum():
    assert sums_of_bits(nn.Linear(2, 1, device="meta")) == {"weight": None, "bias": None}


@torch.no_grad()
def test_a_model_that_was_written_to_is_not_taken_for_what_it_was(model):
    """The digest stays what it is: only what was put back to the bit is the same model."""
    digest, weight = model_digest(model), model.get_input_embeddings().weight
    before = weight[0, 0].clone()
    weight[0, 0] += 1

    with pytest.raises(RuntimeError, match=rf"model {digest[:12]} was changed .* in 1 tensors: .*"):
        check_unchanged(model, digest)

    assert model_digest(model) != digest
    weight[0, 0] = before
    check_unchanged(model, digest)
    assert model_digest(model) == digest


def test_a_module_left_in_the_model_is_a_change():
    model = tiny_model("mixtral")
    digest = model_digest(model)
    model.lm_head = nn.Sequential(model.lm_head)

    with pytest.raises(RuntimeError, match=r"2 tensors: lm_head\.0\.weight, lm_head\.weight\."):
        check_unchanged(model, digest)


def test_a_digest_of_another_model_says_nothing_of_this_one():
    digest = model_digest(tiny_model("mixtral"))

    with pytest.raises(RuntimeError, match="was not taken of this model"):
        check_unchanged(tiny_model("mixtral"), digest)
