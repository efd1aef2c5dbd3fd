"""Steps 1 and 2 of Algorithm 1: capture the routing of a random part of a set.

The routing of the forget set shows which experts hold the knowledge, that of the retain set which
of them serve everything else too.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from seuf.inputs import InputError, Settings

if TYPE_CHECKING:
    from seuf.moe.loading import LanguageModel
    from seuf.moe.routing import Routing

ENOUGH_TOKENS = 100_000
FEWEST_TOKENS = 1_000
log = logging.getLogger(__name__)


class RoutingSettings(Settings):
    """How routing is captured.

    Attributes:
        max_tokens: Take a random part of the set with at least this many tokens; null takes all.
        max_length: Tokens in a sample.
        long_texts: Split texts of more tokens into several samples, or cut them there.
        batch_size: Samples that pass the model at once.
        subset_tokens: Tokens in each of two random subsets, whose affinities show how stable the
            whole set's are (Table 8); a set with less than twice as many has only halves.
        columns: Measured besides affinity and token share, for the rules that read it: `gradient`
            and `reap`, each in a pass of its own (see `seuf.moe.importance`).
        devices: GPUs that share the batches (not those of `columns`), each with the whole model in
            its own process; results are the same as with one.
    """

    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_length: Annotated[int, Field(gt=1)] = 512
    long_texts: Literal["split", "cut"] = "split"
    batch_size: Annotated[int, Field(gt=0)] = 16
    subset_tokens: Annotated[int, Field(gt=0)] = ENOUGH_TOKENS
    columns: tuple[Literal["gradient", "reap"], ...] = ()
    devices: Annotated[int, Field(gt=0)] = 1


def capture(
    base: LanguageModel,
    texts: Sequence[str],
    settings: RoutingSettings | None = None,
    seed: int = 0,
    what: str = "given",
) -> Routing:
    """Return the routing of a random part of the texts: steps 1 and 2 of Algorithm 1.

    Args:
        base: A Mixture-of-Experts model and its tokenizer.
        texts: The texts of one set.
        settings: How large a part, and how many samples pass at once; by default all texts.
        seed: Decides the part.
        what: Name of the set, for messages.

    Raises:
        InputError: If there are too few tokens, a sample is longer than the model allows, or the
            model is in training mode, in which some routers are random.
    """
    from seuf.moe.architectures import check_positions
    from seuf.moe.batches import by_length, tell_long, tokenize
    from seuf.moe.importance import gradient_sizes, weighted_norms
    from seuf.moe.routing import capture_routing

    if base.model.training:
        raise InputError("The model is in training mode: call model.eval().")
    settings = settings or RoutingSettings()
    length, split = settings.max_length, settings.long_texts == "split"
    samples = tokenize(base.tokenizer, texts, length, split)
    if message := tell_long(base.tokenizer, texts, length, split, "routing_capture"):
        log.log(logging.INFO if split else logging.WARNING, "The %s set: %s", what, message)
    check_positions(base.model, samples, "set routing_capture.max_length to {} or less")
    samples = calibration_samples(samples, settings.max_tokens, seed, what)
    batches = list(by_length(samples, settings.batch_size, base.padding))
    subsets = two_subsets(samples, settings.subset_tokens, seed)
    return replace(
        capture_routing(base.model, batches, subsets=subsets),
        gradient=gradient_sizes(base.model, samples, base.padding)
        if "gradient" in settings.columns
        else None,
        reap=weighted_norms(base.model, batches) if "reap" in settings.columns else None,
    )


def two_subsets(samples: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
    """Return the positions of two random, disjoint subsets of at least `tokens` tokens each.

    Zhuang et al. 2025, Table 8, compares subsets of 100,000 tokens with the full set and with each
    other. A set with less than twice as many has none: they would be most of it, and alike for that
    reason.
    """
    order = reversed(_shuffled(samples, seed))
    subsets = [_next_of(order, samples, tokens) for _ in range(2)]
    enough = all(sum(len(samples[at]) for at in subset) >= tokens for subset in subsets)
    return subsets if enough else []


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
    taken = sorted(_next_of(iter(_shuffled(samples, seed)), samples, max_tokens))
    part = [samples[position] for position in taken]
    if max_tokens < ENOUGH_TOKENS:
        log.warning(
            "Attribution uses %d of the %d tokens of the %s set; the paper takes more than %d. "
            "Raise routing_capture.max_tokens.",
            sum(map(len, part)), available, what, ENOUGH_TOKENS,
        )  # fmt: skip
    return part


def _shuffled(samples: list[list[int]], seed: int) -> list[int]:
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    return order


def _next_of(order: Iterator[int], samples: list[list[int]], tokens: int) -> list[int]:
    """Return the next positions of an order, until their samples have `tokens` tokens together."""
    taken, total = [], 0
    for position in order:
        taken.append(position)
        total += len(samples[position])
        if total >= tokens:
            break
    return taken
