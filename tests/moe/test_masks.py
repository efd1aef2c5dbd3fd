"""Masks are what they were, and found without looking at positions."""

import pytest
import torch
from transformers import masking_utils

from seuf.moe.routing import skip_packed_sequence_check
from tests.tiny import tiny_batch

NAMES = ["find_packed_sequence_indices", "is_tracing"]


@torch.no_grad()
def test_a_pass_is_the_same_to_the_bit(any_model):
    ids = tiny_batch().input_ids
    expected = any_model(input_ids=ids, use_cache=False).logits

    with skip_packed_sequence_check():
        logits = any_model(input_ids=ids, use_cache=False).logits

    assert torch.equal(logits, expected)


def test_transformers_is_left_as_it_was():
    before = [getattr(masking_utils, name) for name in NAMES]

    with pytest.raises(ZeroDivisionError), skip_packed_sequence_check():
        _ = 1 / 0

    assert [getattr(masking_utils, name) for name in NAMES] == before
