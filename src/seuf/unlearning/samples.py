"""The samples of a method's steps: which are drawn, which tokens count, and their tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from seuf.moe.batches import Sample, Span, spans_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StepBatch(NamedTuple):
    """The tensors that a step takes from outside the model, on its device.

    Attributes:
        input_ids: The samples to forget, then as many to keep if the objective has a retain term,
            then the refusals of the first if it has those; right-padded, (B, T).
        mask: Which tokens a loss counts, no padding and no prompts, (B, T), bool.
        forget_mask: Which tokens are of samples to forget and no padding, (B, T), bool.
        texts: Which tokens' NLL counts, by the text of the sample: those of `mask` with a token of
            the same text before them, (B, S, T), bool.
        prefix: Input of the first trained layer, (B, T, d); None if it is not kept.
        forget_reference_nll: The original model's NLL sum of each text to forget, (B_f, S).
        refusal_reference_nll: The same for the refusals.
        retain_reference_hidden: The original model's activations on samples to keep, (B_r, T, d).
        forget_reference_last: Input of the original's head on samples to forget, (B_f, T, d).
        retain_reference_last: The same on samples to keep, (B_r, T, d).
        retain_token_weights: Weight of each token of the samples to keep, (B_r, T).
    """

    input_ids: Tensor
    mask: Tensor
    forget_mask: Tensor
    texts: Tensor
    prefix: Tensor | None
    forget_reference_nll: Tensor | None = None
    refusal_reference_nll: Tensor | None = None
    retain_reference_hidden: Tensor | None = None
    forget_reference_last: Tensor | None = None
    retain_reference_last: Tensor | None = None
    retain_token_weights: Tensor | None = None

    def part(self, rows: slice, size: int) -> StepBatch:
        """Return some rows of each set; the batch has `size` samples of each."""

        def of_sets(tensor: Tensor | None) -> Tensor | None:
            return tensor if tensor is None else torch.cat([s[rows] for s in tensor.split(size)])

        of_one_set = [tensor if tensor is None else tensor[rows] for tensor in self[5:]]
        return StepBatch._make([*map(of_sets, self[:5]), *of_one_set])


def draw_batches(
    forget: int, retain: int, steps: int, batch_size: int, seed: int
) -> list[tuple[list[int], list[int]]]:
    """Return each step's samples of both sets; a set is shuffled anew each time it is used up.

    A position counts the samples to forget first, then those to keep.
    """

    def endless(positions: range, rng: random.Random) -> Iterator[int]:
        while True:
            order = list(positions)
            rng.shuffle(order)
            yield from order

    of_forget = endless(range(forget), random.Random(f"forget {seed}"))
    of_retain = endless(range(forget, forget + retain), random.Random(f"retain {seed}"))
    return [
        (
            [next(of_forget) for _ in range(batch_size)],
            [next(of_retain) for _ in range(batch_size)],
        )
        for _ in range(steps)
    ]


def counted_tokens(sample: Sequence[int]) -> Tensor:
    """Return which of a sample's tokens a loss counts: all but those of prompts, (T,), bool."""
    counted = torch.zeros(len(sample), dtype=torch.bool)
    for span in spans_of(sample):
        counted[span.counted : span.stop] = True
    return counted


def text_numbers(sample: Sequence[int]) -> Tensor:
    """Return the number of the text in whose NLL each token counts, -1 if in none, (T,).

    A text's first token counts in none: it would be predicted from another text, or from nothing.
    """
    numbers = torch.full((len(sample),), -1)
    for number, span in enumerate(spans_of(sample)):
        numbers[max(span.counted, span.start + 1) : span.stop] = number
    return numbers


def refusals_of(
    samples: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    refusals: Sequence[str],
    seed: int,
) -> list[Sample]:
    """Return the samples with a refusal after the prompt of each text.

    The first half of a text without a prompt stands for its prompt. Refusals are drawn from the
    list at random, with replacement.

    Args:
        samples: Token ids; a `Sample` says where its texts and their prompts lie.
        tokenizer: Tokenizes refusals, each with a blank before it if the prompt ends in none, and
            ends them with its end of text.
        refusals: Sentences.
        seed: Decides the draw.
    """
    rng, end = random.Random(f"refusals {seed}"), tokenizer.eos_token_id
    refused = []
    for sample in samples:
        refusal = Sample([], [])
        for start, counted, stop in spans_of(sample):
            cut = counted if counted > start else start + (stop - start + 1) // 2
            prompt = list(sample[start:cut])
            blank = "" if str(tokenizer.decode(prompt))[-1:].isspace() else " "
            text = blank + rng.choice(list(refusals))
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            begin = len(refusal)
            refusal += [*prompt, *ids, *([] if end is None else [end])]
            refusal.texts.append(Span(begin, begin + len(prompt), len(refusal)))
        refused.append(refusal)
    return refused


def common_width(
    samples: Sequence[Sequence[int]], batches: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> int:
    """Return a width for all batches, so that a GPU replays one recording for each.

    0 if they would take more than one and a half times the tokens; then each has its own width.

    Args:
        samples: Token ids.
        batches: Positions of each batch's samples to forget and to keep, see `draw_batches`.
    """
    widths = [max(len(samples[at]) for at in (*forget, *retain)) for forget, retain in batches]
    widest = max(widths)
    return widest if 2 * widest * len(widths) <= 3 * sum(widths) else 0
