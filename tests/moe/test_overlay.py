"""A delta is laid over a checkpoint only if it fits, and the checkpoint stays what it is."""

from __future__ import annotations

import pytest
import torch

from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.comparison import Overlaid
from seuf.moe.deltas import Delta
from tests.moe.folders import saved

FLOATS = {"default": "float32"}
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
