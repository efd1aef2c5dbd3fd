"""How a study's answers are scored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from seuf.inputs import Settings
from seuf.logs import warn_once

log = logging.getLogger(__name__)


class ScoringSettings(Settings):
    """How answers are scored.

    Attributes:
        headline: The measure of forget efficacy and utility. `choices`: the share of questions
            whose right choice the model prefers, or without choices the free answers by their
            kind's measure. `produced`: the share of greedy answers that are the reference. Where
            questions have references, the other measure is reported too.
        metric: `acc` takes the likeliest choice; `acc_norm` the likeliest per character, for
            choices of different length.
        batch_size: Sequences scored at once.
        max_length: Tokens in a sequence; a longer question loses its beginning, see `warn_of_cut`.
        may_cut: Share of the questions that may be longer; with more the study does not start.
        generate: Score a free answer also for questions that have choices and a reference; those
            without choices always have one scored. See `seuf.benchmarks.records`.
        max_new_tokens: Tokens in a greedy answer, for kinds that have no number of their own.
        path_questions: Test questions of each subject that every evaluation of a training run
            asks; null asks all. They choose nothing.
        path_texts: Maximum number of general texts, evenly spaced, whose loss it measures.
        probe_tokens: Tokens of each set on which routing overlap is measured.
        devices: GPUs that share the batches in the stage `evaluate` and the evaluations of
            `unlearn`, each with the whole model in its own process; the numbers are those of one.
        min_k: Share of a passage's tokens, the least likely ones, that membership inference by
            min-k and min-k++ uses; RWKU takes 0.2, MUSE 0.4.
    """

    headline: Literal["choices", "produced"] = "choices"
    metric: Literal["acc", "acc_norm"] = "acc"
    batch_size: Annotated[int, Field(gt=0)] = 64
    max_length: Annotated[int, Field(gt=1)] = 512
    may_cut: Annotated[float, Field(ge=0, le=1)] = 0.01
    generate: bool = False
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    path_questions: Annotated[int, Field(gt=1)] | None = None
    path_texts: Annotated[int, Field(gt=0)] = 128
    probe_tokens: Annotated[int, Field(gt=0)] = 4096
    devices: Annotated[int, Field(gt=0)] = 1
    min_k: Annotated[float, Field(gt=0, le=1)] = 0.2


def warn_of_cut(rows: Sequence[Sequence[int]], max_length: int) -> None:
    """Log once how many questions are longer than `max_length` tokens, if any."""
    if cut := sum(len(row) > max_length for row in rows):
        warn_once(  # every evaluation of a training run asks the same questions
            log,
            f"{cut} of {len(rows)} questions have more than {max_length} tokens and lose their "
            "beginning; raise evaluation.max_length.",
        )
