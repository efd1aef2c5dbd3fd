"""The samples of a method's steps: which are drawn, what of them counts, and their refusals."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seuf.moe.batches import Sample, Span, spans_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def draw_batches(
    forget: int, retain: int, steps: int, batch_size: int, seed: int
) -> list[tuple[list[int], list[int]]]:
    """Return the samples of each step, of both sets: shuffled anew each time a set is used up.

    Positions are those among the samples to forget, followed by those to keep.
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
    """Return which of a sample's tokens a loss counts, all but those of prompts, (T,), bool."""
    counted = torch.zeros(len(sample), dtype=torch.bool)
    for span in spans_of(sample):
        counted[span.counted : span.stop] = True
    return counted


def text_numbers(sample: Sequence[int]) -> Tensor:
    """Return for which of a sample's texts each token's NLL counts, -1 if for none, (T,).

    Not for the first of a text: it would be told from another text, or from nothing.
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
    """Return samples in which each text goes on with a refusal after its prompt.

    What no loss counts of a text is its prompt; of one without, the first half of its tokens. The
    refusals are drawn from the list, with replacement, in an order that the seed decides.

    Args:
        samples: Token ids; a `Sample` says where its texts and their prompts lie.
        tokenizer: A refusal that follows no blank gets one; each is closed by its end of text.
        refusals: Sentences.
        seed: Of the order.
    """
    rng, end = random.Random(f"refusals {seed}"), tokenizer.eos_token_id
    refused = []
    for sample in samples:
        made = Sample([], [])
        for start, counted, stop in spans_of(sample):
            cut = counted if counted > start else start + (stop - start + 1) // 2
            prompt = list(sample[start:cut])
            blank = "" if str(tokenizer.decode(prompt))[-1:].isspace() else " "
            text = blank + rng.choice(list(refusals))
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            begin = len(made)
            made += [*prompt, *ids, *([] if end is None else [end])]
            made.texts.append(Span(begin, begin + len(prompt), len(made)))
        refused.append(made)
    return refused


def common_width(
    samples: Sequence[Sequence[int]], batches: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> int:
    """Return how wide all batches may be, so that a GPU plays one recording back for each.

    0 if they would be more than half as large again: then they are as wide as they are.

    Args:
        samples: Token ids.
        batches: Positions of the samples to forget and to keep of each, see `draw_batches`.
    """
    widths = [max(len(samples[at]) for at in (*forget, *retain)) for forget, retain in batches]
    widest = max(widths)
    return widest if 2 * widest * len(widths) <= 3 * sum(widths) else 0
