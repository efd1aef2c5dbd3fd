"""What a study says about its benchmark and how it is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from seuf.inputs import Settings


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
        retain_texts: Which texts are kept, and learned before: those of the authors that are asked
            for, or of `all` 180 of retain90.
        true_answer: Which true answer stands beside the wrong ones: the one that was learned, or
            its paraphrase, which is worded like them.
        metrics: `choices` asks the choices only. `full` adds what forget quality and model utility
            are made of: likelihoods of true and wrong answers, real authors and world facts. That
            makes sense with all 20 authors to forget and a model that was large enough to know
            real authors; with fewer, forget quality has too few questions to tell models apart.
            Model utility also needs `evaluation.generate`, forget quality a reference model.
    """

    name: Literal["tofu"] = "tofu"
    forget_authors: Annotated[int, Field(ge=1, le=20)] = 4
    retain_authors: Annotated[int, Field(ge=1, le=20)] = 16
    retain_texts: Literal["asked", "all"] = "asked"
    true_answer: Literal["answer", "paraphrased_answer"] = "answer"
    metrics: Literal["choices", "full"] = "choices"


class MuseSettings(Settings):
    """MUSE (Shi et al. 2024): news articles, or books.

    The study's globals.yml names its hub repo, or a folder laid out like it: `muse` and
    `muse_revision`.

    Attributes:
        corpus: Which of the two.
        selection_questions: Questions about each of the two sets that choose the checkpoint; the
            others are reported. As many of the verbatim probes are left out of what is reported.
        text_words: Words of an article or book that make one text. What lies behind
            `unlearning.max_length` tokens of a text is neither learned nor forgotten, and a book
            is one row.
    """

    name: Literal["muse"] = "muse"
    corpus: Literal["news", "books"] = "news"
    selection_questions: Annotated[int, Field(ge=2)] = 30
    text_words: Annotated[int, Field(ge=8)] = 300


class WmdpSettings(Settings):
    """WMDP (Li et al. 2024) with MMLU.

    Attributes:
        domain: What is forgotten. There are questions on `chem`, but no texts.
        retain: Which texts are kept: `wikitext`, or `corpus` for the domain's own.
        max_texts: Of each set at most so many, chosen by a hash; null for all. The corpora of bio
            are whole papers, of which 1.9 GB are to keep: give a number there.
        min_length: Characters of a text; shorter ones are left out, such as headings.
        selection_questions: Questions of WMDP, and of MMLU, that choose the checkpoint.
        mmlu_questions: Questions of MMLU that are reported; null for all 14,042.
    """

    name: Literal["wmdp"] = "wmdp"
    domain: Literal["bio", "cyber"] = "cyber"
    retain: Literal["wikitext", "corpus"] = "wikitext"
    max_texts: Annotated[int, Field(gt=0)] | None = None
    min_length: Annotated[int, Field(gt=0)] = 200
    selection_questions: Annotated[int, Field(ge=2)] = 200
    mmlu_questions: Annotated[int, Field(ge=2)] | None = None

    @field_validator("domain", mode="before")
    @classmethod
    def _has_texts(cls, domain: object) -> object:
        if domain == "chem":
            raise ValueError(
                "WMDP has questions on chem but no texts to forget: take bio or cyber, or "
                "benchmark 'own' with texts of yours"
            )
        return domain

    @property
    def forget_corpus(self) -> str:
        """The corpus that is forgotten."""
        return f"{self.domain}-forget-corpus"

    @property
    def retain_corpus(self) -> str:
        """The corpus that is kept."""
        return "wikitext" if self.retain == "wikitext" else f"{self.domain}-retain-corpus"


class RwkuSettings(Settings):
    """RWKU (Jin et al. 2024) with MMLU.

    Attributes:
        people: Who is forgotten: the names, or how many, the first ones; RWKU has 200.
        retain: Which texts are kept: `wikitext`, or the passages about everyone else, `people`.
        min_length: Characters of a text of WikiText; shorter ones are left out, such as headings.
        selection_questions: Questions about them, and of MMLU, that choose the checkpoint.
        mmlu_questions: Questions of MMLU that are reported; null for all 14,042.
        other_probes: Of the adversarial probes, and of either kind of probes about neighbors, at
            most so many are reported; null for all.
        mia_passages: Passages for membership inference about them, and about others, at most;
            null for all.
    """

    name: Literal["rwku"] = "rwku"
    people: Annotated[int, Field(ge=1)] | Annotated[list[str], Field(min_length=1)] = 100
    retain: Literal["wikitext", "people"] = "wikitext"
    min_length: Annotated[int, Field(gt=0)] = 200
    selection_questions: Annotated[int, Field(ge=2)] = 200
    mmlu_questions: Annotated[int, Field(ge=2)] | None = None
    other_probes: Annotated[int, Field(ge=0)] | None = None
    mia_passages: Annotated[int, Field(ge=2)] | None = None


class OwnSettings(Settings):
    """Your own forget set, retain set and questions, named in the study's globals.yml.

    Attributes:
        selection_share: Share of the questions that choose the checkpoint; the others are
            reported. A question whose line has `part` keeps it.
    """

    name: Literal["own"] = "own"
    selection_share: Annotated[float, Field(gt=0, lt=1)] = 0.5


BenchmarkSettings = (
    SandboxSettings | TofuSettings | MuseSettings | WmdpSettings | RwkuSettings | OwnSettings
)


class ScoringSettings(Settings):
    """How answers are scored.

    Attributes:
        metric: `acc` takes the likeliest choice; `acc_norm` the likeliest per character, for
            choices of different length.
        batch_size: Sequences scored at once.
        max_length: Tokens in a sequence.
        generate: Ask questions with choices for a free answer too, if they have a reference; those
            without choices are asked in any case. See `seuf.benchmarks.records`.
        max_new_tokens: Tokens in a greedy answer, for kinds that have no number of their own.
        probe_tokens: Tokens of each set on which routing overlap is measured.
        min_k: Share of a passage's tokens, the least likely ones, that membership inference by
            min-k and min-k++ looks at; RWKU takes 0.2, MUSE 0.4.
    """

    metric: Literal["acc", "acc_norm"] = "acc"
    batch_size: Annotated[int, Field(gt=0)] = 64
    max_length: Annotated[int, Field(gt=1)] = 512
    generate: bool = False
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    probe_tokens: Annotated[int, Field(gt=0)] = 4096
    min_k: Annotated[float, Field(gt=0, le=1)] = 0.2
