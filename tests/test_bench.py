"""The programs of `bench/` ask the library for what it has."""

import pytest
from bench.smol import Smol, plain_look

from seuf.benchmarks.choices import ChoicePasses, encode_choices, group_by_input


def test_the_plain_loop_of_smol_scores_what_the_library_scores():
    """Likelihoods of the same choices agree to rounding; the judge runs."""
    smol = Smol("cpu", None, tiny=True)
    choices = [encode_choices(smol.base.tokenizer, question) for question in smol.questions[:3]]
    passes = ChoicePasses(group_by_input(one for of in choices for one in of), batch_size=8)

    plain, _ = plain_look(smol.base.model, choices, [[1, 2, 3]])
    found = passes.log_likelihoods(smol.base.model).values()

    assert sorted(plain) == pytest.approx(sorted(found), rel=1e-4)
    assert smol.judge(smol.base.model).chance == 0.25
