"""What a study says about its benchmark and how it is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from seuf.base_settings import Settings


class SandboxSettings(Settings):
    """The made-up world.

    Attributes:
        forget_topic: The topic to forget.
        entities: Entities in each topic; each has one fact.
    """

    name: Literal["sandbox"] = "sandbox"
    forget_topic: Literal["alchemy", "astronomy", "botany", "history"] = "alchemy"
    entities: Annotated[int, Field(ge=12, le=200)] = 72


class TofuSettings(Settings):
    """TOFU (Maini et al. 2024), or a part of it that a small model can learn.

    Attributes:
        forget_authors: Authors of forget10 to take, the first ones; at most 20.
        retain_authors: Authors of retain90 to take, the first ones; at most 20, since TOFU has
            wrong answers for no more.
        true_answer: Which true answer stands beside the wrong ones: the one that was learned, or
            its paraphrase, which is worded like them.
    """

    name: Literal["tofu"] = "tofu"
    forget_authors: Annotated[int, Field(ge=1, le=20)] = 4
    retain_authors: Annotated[int, Field(ge=1, le=20)] = 16
    true_answer: Literal["answer", "paraphrased_answer"] = "answer"


class OwnSettings(Settings):
    """Your own forget set, retain set and questions, named in the study's globals.yml.

    Attributes:
        selection_share: Share of the questions that choose the checkpoint; the others are
            reported. A question whose line has `part` keeps it.
    """

    name: Literal["own"] = "own"
    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class ScoringSettings(Settings):
    """How answers are scored.

    Attributes:
        metric: `acc` takes the likeliest choice; `acc_norm` the likeliest per character, for
            choices of different length.
        batch_size: Sequences scored at once.
        max_length: Tokens in a sequence.
        generate: Also score greedy answers by ROUGE-L recall, for questions with a reference.
        max_new_tokens: Tokens in a greedy answer.
        probe_tokens: Tokens of each set on which routing overlap is measured.
    """

    metric: Literal["acc", "acc_norm"] = "acc"
    batch_size: Annotated[int, Field(gt=0)] = 64
    max_length: Annotated[int, Field(gt=1)] = 512
    generate: bool = False
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    probe_tokens: Annotated[int, Field(gt=0)] = 4096
