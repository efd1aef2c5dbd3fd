"""What a comparison of two checkpoints finds; a delta is laid over one only if it fits."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from seuf.inputs import InputError
from seuf.moe import comparison
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.comparison import Overlaid, compare
from seuf.moe.deltas import Delta
from seuf.moe.digests import checkpoint_dtypes
from tests.tiny import loaded, saved

FLOATS = {"default": "float32"}
GATE = "model.layers.1.mlp.gate.weight"  # of qwen2_moe


def rewritten(base, folder, key, change):
    """Return a copy of a checkpoint in which a function has changed one tensor."""
    shutil.copytree(base, folder)
    file = folder / Checkpoint(base).files[key]
    tensors = load_file(file)
    tensors[key] = change(tensors[key].clone())
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def flipped(index):
    """Return what flips the lowest bit of one element."""

    def flip(tensor):
        tensor.view(torch.int32)[index] ^= 1
        return tensor

    return flip


def test_of_a_fused_tensor_each_expert_is_compared_by_itself(tmp_path):
    """Of 4 experts one has changed: 3 rows of this tensor are equal, and every other tensor."""
    base = saved("granitemoe", tmp_path / "base")
    key = "model.layers.1.block_sparse_moe.input_linear.weight"
    other = rewritten(base, tmp_path / "other", key, flipped((2, 0, 0)))

    found = compare(Checkpoint(base), Checkpoint(other), FLOATS)

    assert [change.key for change in found.changes] == [f"{key}[2]"]
    assert found.changes[0].elements == Checkpoint(base)[key][2].numel()
    fused = 4  # two a layer
    assert found.equal == len(Checkpoint(base).files) - fused + 4 * fused - 1


def test_the_numbers_of_a_change(tmp_path, monkeypatch):
    """Twos become twos and one 5: the largest change is 3, relative 3 / norm of n twos."""
    monkeypatch.setattr(comparison, "CHUNK", 5)
    base = saved("qwen2_moe", tmp_path / "plain")
    twos = rewritten(base, tmp_path / "twos", GATE, lambda old: torch.full_like(old, 2.0))
    other = rewritten(twos, tmp_path / "other", GATE, _one_five)

    change = compare(Checkpoint(twos), Checkpoint(other), FLOATS).changes[0]

    elements = 4 * 32
    assert (change.key, change.elements, change.largest) == (GATE, elements, 3.0)
    assert change.relative == pytest.approx(3 / (4 * elements) ** 0.5, rel=1e-12)


def _one_five(old):
    old[1, 7] = 5.0
    return old


def test_a_change_of_what_was_all_zeros_has_no_relative_size(tmp_path):
    base = saved("qwen2_moe", tmp_path / "plain")
    zeros = rewritten(base, tmp_path / "zeros", GATE, torch.zeros_like)
    other = rewritten(zeros, tmp_path / "other", GATE, torch.ones_like)

    change = compare(Checkpoint(zeros), Checkpoint(other), FLOATS).changes[0]

    assert (change.largest, change.relative) == (1.0, None)


def test_minus_zero_and_numbers_that_are_not_finite_are_changes(tmp_path):
    base = saved("qwen2_moe", tmp_path / "plain")
    zeros = rewritten(base, tmp_path / "zeros", GATE, torch.zeros_like)
    for number in (-0.0, float("nan"), float("inf")):
        other = rewritten(
            zeros, tmp_path / f"{number}", GATE, lambda old, n=number: torch.full_like(old, n)
        )

        change = compare(Checkpoint(zeros), Checkpoint(other), FLOATS).changes[0]

        assert change == (GATE, 4 * 32, 0.0, None)


def test_a_bit_that_is_lost_in_loading_is_seen_all_the_same(tmp_path):
    """The last bit of float32 is not in bfloat16: no number of the model changes, the file does."""
    base = saved("qwen2_moe", tmp_path / "base")
    other = rewritten(base, tmp_path / "other", GATE, flipped((0, 0)))

    found = compare(Checkpoint(base), Checkpoint(other), {"default": "bfloat16"})

    assert [(change.key, change.largest) for change in found.changes] == [(GATE, 0.0)]
    assert found.base_digest == found.model_digest


def test_a_checkpoint_stored_in_a_wider_type_is_equal_if_it_loads_so(tmp_path):
    base = saved("mixtral", tmp_path / "base", torch.bfloat16)
    model = loaded(base)
    model.float().save_pretrained(tmp_path / "wide")

    found = compare(Checkpoint(base), Checkpoint(tmp_path / "wide"), {"default": "bfloat16"})

    assert (found.changes, found.equal) == ([], len(Checkpoint(base).files))


def test_tensors_that_one_side_lacks_are_named(tmp_path):
    one, other = saved("mixtral", tmp_path / "one"), saved("mixtral", tmp_path / "other")
    less = Checkpoint(other)
    del less.files["lm_head.weight"]

    with pytest.raises(InputError, match=r"other is not a whole checkpoint.*lm_head\.weight"):
        compare(Checkpoint(one), less, FLOATS)
    more = Checkpoint(other)
    more.files["extra"] = "model.safetensors"
    with pytest.raises(InputError, match=r"other holds what .*one does not: extra"):
        compare(Checkpoint(one), more, FLOATS)


def test_another_shape_is_named(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    other = rewritten(base, tmp_path / "other", GATE, lambda old: old[:3].clone())

    with pytest.raises(InputError, match=f"{GATE} has another shape in .*other"):
        compare(Checkpoint(base), Checkpoint(other), FLOATS)


@pytest.mark.parametrize("dtypes", [[], {}, {"default": "load"}, {"default": "float32", "x": "y"}])
def test_types_that_are_none_are_refused(tmp_path, dtypes):
    base = Checkpoint(saved("mixtral", tmp_path / "base"))

    with pytest.raises(InputError, match="no type"):
        compare(base, base, dtypes)


def test_the_base_is_compared_with_itself_in_the_types_it_is_of(tmp_path):
    base = saved("mixtral", tmp_path / "base")
    dtypes = checkpoint_dtypes(loaded(base))

    found = compare(Checkpoint(base), Overlaid(Checkpoint(base), Delta({}, "", dtypes)), dtypes)

    assert (found.changes, found.changed) == ([], 0)
    assert found.base_digest == found.model_digest


FUSED = "model.layers.1.block_sparse_moe.input_linear.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"nowhere": torch.ones(2)}, "nowhere is not in"),
        ({f"{FUSED}[00]": torch.ones(48, 32)}, r"\[00\] is not in"),
        ({f"{FUSED}[4]": torch.ones(48, 32)}, r"\[4\] is beyond the rows"),
        ({f"{FUSED}[1]": torch.ones(48, 31)}, r"\[1\] is \[48, 31\]"),
        ({f"{FUSED}[1]": torch.ones(48, 32).half()}, r"\[1\] is torch.float16; .* torch.float32"),
        (
            {FUSED: torch.ones(4, 48, 32), f"{FUSED}[1]": torch.ones(48, 32)},
            "as a whole, and rows of it",
        ),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(tmp_path, tensors, message):
    base = Checkpoint(saved("granitemoe", tmp_path / "base"))

    with pytest.raises(InputError, match=message):
        Overlaid(base, Delta(tensors, "", FLOATS))


def test_a_row_is_laid_over_a_copy_and_other_tensors_are_the_bases_own(tmp_path):
    base = Checkpoint(saved("granitemoe", tmp_path / "base"))
    overlaid = Overlaid(base, Delta({f"{FUSED}[1]": torch.ones(48, 32)}, "", FLOATS))
    before = base[FUSED]

    after = overlaid.over(FUSED, before)

    assert torch.equal(before, base[FUSED])
    assert torch.equal(after[1], torch.ones(48, 32))
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])
    other = base["model.norm.weight"]
    assert overlaid.over("model.norm.weight", other) is other
