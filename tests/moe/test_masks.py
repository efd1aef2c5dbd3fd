"""Masks are what they were, and found without looking at positions."""

import pytest
from transformers import masking_utils

from seuf.moe.routing import skip_packed_sequence_check

NAMES = ["find_packed_sequence_indices", "is_tracing"]


def test_transformers_is_left_as_it_was():
    before = [getattr(masking_utils, name) for name in NAMES]

    with pytest.raises(ZeroDivisionError), skip_packed_sequence_check():
        _ = 1 / 0

    assert [getattr(masking_utils, name) for name in NAMES] == before
