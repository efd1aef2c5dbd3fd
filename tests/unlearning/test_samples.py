"""Refusals in the place of what is to be forgotten; the rest is held by the passes' tests."""

import pytest
import torch

from seuf.moe.batches import Sample, Span, spans_of
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import arguments_of
from seuf.unlearning.samples import common_width, refusals_of
from seuf.unlearning.settings import REFUSALS
from tests.tiny import tiny_samples
from tests.unlearning.runs import RETAIN, SETTINGS, method


def test_a_refusal_follows_the_prompt_or_else_half_of_the_text(language_model):
    """A text of four tokens, two of them its prompt, and one of three without: two are its half.

    The refusal of each counts alone, up to the end of text that closes it.
    """
    tokenizer = language_model.tokenizer
    packed = Sample([5, 6, 7, 8, 9, 10, 11], [Span(0, 2, 4), Span(4, 4, 7)])
    refusal = [*tokenizer(" No.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    (refused,) = refusals_of([packed], tokenizer, ["No."], seed=0)

    second = 2 + len(refusal)
    assert refused == [5, 6, *refusal, 9, 10, *refusal]
    assert spans_of(refused) == [
        Span(0, 2, second),
        Span(second, second + 2, second + 2 + len(refusal)),
    ]


def test_the_seed_pairs_texts_with_refusals(language_model):
    samples = tiny_samples(20)
    one, same, other = (
        refusals_of(samples, language_model.tokenizer, REFUSALS, seed) for seed in (0, 0, 1)
    )

    assert one == same
    assert one != other


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_refusals_pass_beside_what_they_stand_for(language_model, cached):
    """Their losses are those of their samples alone, and at first as the original's."""
    forget = [Sample(ids, [Span(0, 2, len(ids))]) for ids in tiny_samples(5) if len(ids) > 2]
    of, shared = method(objective="dpo"), SETTINGS.model_copy(update={"prefix_cache": cached})
    passes = ForwardPasses(language_model, forget, RETAIN, of, shared, 1, 1, seed=0)
    batch, first = passes.batch(1), len(forget) + len(RETAIN)

    given = passes.objective_inputs(batch)

    assert given.keys() == arguments_of("dpo")[0]
    assert len(batch.input_ids) == 6
    refusals = passes.nll(passes.samples_at([first + p for p in passes.positions[1][0]]))
    torch.testing.assert_close(given["refusal_nll"].sums(), refusals.sums())
    for of_which in ("forget", "refusal"):
        nll, reference = given[f"{of_which}_nll"], given[f"{of_which}_reference_nll"]
        torch.testing.assert_close(nll.sums(), reference)
    assert not batch.forget_mask[2:].any()


def test_batches_are_as_wide_as_the_widest_unless_they_would_grow_by_more_than_half():
    """Widths 3, 2 and 4: 12 in place of 9 is a third more. With 9 for the 2 it is 27 for 16."""
    batches = [([0], [1]), ([2], [2]), ([3], [])]

    assert common_width([[0] * 3, [0], [0] * 2, [0] * 4], batches) == 4
    assert common_width([[0] * 3, [0], [0] * 9, [0] * 4], batches) == 0
