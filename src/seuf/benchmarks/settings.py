"""How a study's answers are scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from seuf.inputs import Settings


class ScoringSettings(Settings):
    """How answers are scored.

    Attributes:
        metric: `acc` takes the likeliest choice; `acc_norm` the likeliest per character, for
            choices of different length.
        batch_size: Sequences scored at once.
        max_length: Tokens in a sequence.
        generate: Score a free answer to questions with choices too, if they have a reference; for
            those without choices one is scored in any case. See `seuf.benchmarks.records`.
        max_new_tokens: Tokens in a greedy answer, for kinds that have no number of their own.
        probe_tokens: Tokens of each set on which routing overlap is measured.
        min_k: Share of a passage's tokens, the least likely ones, that membership inference by
            min-k and min-k++ uses; RWKU takes 0.2, MUSE 0.4.
    """

    metric: Literal["acc", "acc_norm"] = "acc"
    batch_size: Annotated[int, Field(gt=0)] = 64
    max_length: Annotated[int, Field(gt=1)] = 512
    generate: bool = False
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    probe_tokens: Annotated[int, Field(gt=0)] = 4096
    min_k: Annotated[float, Field(gt=0, le=1)] = 0.2
