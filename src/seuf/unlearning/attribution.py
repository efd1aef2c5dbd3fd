"""Which experts hold the knowledge: routing tables, and how far they can be trusted."""

from __future__ import annotations

import logging
import random

import torch
from torch import Tensor

from seuf.inputs import InputError

ENOUGH_TOKENS = 100_000
FEWEST_TOKENS = 1_000
log = logging.getLogger(__name__)


def calibration_samples(
    samples: list[list[int]], max_tokens: int | None, seed: int, what: str
) -> list[list[int]]:
    """Return a random part of the samples with at least `max_tokens` tokens, in the given order.

    Zhuang et al. 2025, section 4: more than 100,000 tokens are enough.

    Raises:
        InputError: If there are fewer than 1,000 tokens, too few for any attribution.
    """
    available = sum(map(len, samples))
    if available < FEWEST_TOKENS:
        raise InputError(
            f"The {what} set has {available} tokens; attribution needs at least {FEWEST_TOKENS}."
        )
    if max_tokens is None or available <= max_tokens:
        return samples
    chosen = _draw(samples, max_tokens, random.Random(seed))
    if max_tokens < ENOUGH_TOKENS:
        log.warning(
            "Attribution uses %d of the %d tokens of the %s set; the paper takes more than %d. "
            "Raise routing_capture.max_tokens.",
            sum(map(len, chosen)), available, what, ENOUGH_TOKENS,
        )  # fmt: skip
    return chosen


def _draw(samples: list[list[int]], tokens: int, rng: random.Random) -> list[list[int]]:
    order = list(range(len(samples)))
    rng.shuffle(order)
    taken, total = set(), 0
    for position in order:
        if total >= tokens:
            break
        taken.add(position)
        total += len(samples[position])
    return [samples[position] for position in sorted(taken)]


def top_overlap(one: Tensor, other: Tensor, count: int = 6) -> float:
    """Return the share of the `count` highest scores that two score matrices have in common.

    Zhuang et al. 2025, Table 8.
    """
    count = min(count, one.numel())
    first, second = (set(torch.topk(s.flatten(), count).indices.tolist()) for s in (one, other))
    return len(first & second) / count
