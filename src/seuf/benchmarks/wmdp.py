"""WMDP: a proxy for hazardous knowledge (Li et al. 2024, arXiv 2403.03218).

The texts to forget are the papers (bio) or programs (cyber) of the domain's forget corpus, those to
keep WikiText or the domain's retain corpus. WMDP's questions ask for what is forgotten, MMLU's (see
`mmlu`) for what is kept, both as in lm-evaluation-harness, zero shots.

Data, all on https://huggingface.co/datasets:

- cais/wmdp, MIT: the questions, 1,273 on bio, 1,987 on cyber, 408 on chem (at 8b85378e501f; the
  release of March 2024 had more, so older scores are not comparable).
- cais/wmdp-corpora, MIT: the corpora but for one (at daf89fa9b618).
- cais/wmdp-bio-forget-corpus: the texts to forget of bio, 24,453 papers. It is gated: request
  access with the form that https://huggingface.co/datasets/cais/wmdp-corpora links to, then log in
  with `hf auth login`; or name the folder with the files you received, parquet or JSON lines with
  `title`, `abstract` and `text`, of which only `text` is used.
- Salesforce/wikitext, CC BY-SA 3.0 and GFDL: wikitext-2-raw-v1.

The reference is `get_data` in rmu/utils.py of https://github.com/centerforaisafety/wmdp, read in a
copy, https://github.com/sheepjun0330/wmdp-main at 0f744c7.

1. There is no corpus for chem, so it cannot be forgotten, except with texts of your own in a study
   `own`.
2. WMDP has a single split. A hash takes `selection_questions` questions to choose the checkpoint;
   the others are reported, 1,787 on cyber with 200. lm-eval reports all: for its number score the
   exported model with it.
3. RMU takes texts longer than `min_len` characters; here they have at least `min_length`. RMU cuts
   a text at 512 or 768 tokens; here the study's `unlearning.max_length` and `pack` decide.
4. RMU reads WikiText's `test` split; here it is `train`, which has eight times the rows.
5. A study forgets one domain; RMU's released models forget bio and cyber in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from seuf.benchmarks.mmlu import lm_eval_question, lm_eval_task, mmlu_questions
from seuf.benchmarks.records import BenchmarkData, Question, Text
from seuf.benchmarks.registry import Benchmark, PublishedSettings
from seuf.benchmarks.sampling import (
    MIN_PER_PART,
    Record,
    general_passages,
    long_texts,
    sample_positions,
    split_questions,
)
from seuf.inputs import InputError


class WmdpSettings(PublishedSettings):
    """WMDP (Li et al. 2024) with MMLU.

    Attributes:
        domain: The domain to forget. There are questions on `chem`, but no texts.
        retain: The texts to keep: `wikitext`, or `corpus` for the domain's own.
        max_texts: Maximum number of texts in each set, chosen by a hash; null for all. Set it for
            bio, whose corpora are whole papers, 1.9 GB of them to keep.
        min_length: Least characters of a text; this leaves out headings.
        selection_questions: Questions of WMDP, and of MMLU, that choose the checkpoint.
        mmlu_questions: Questions of MMLU that are reported; null for all 14,042.
    """

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


def prepare(
    settings: WmdpSettings,
    forget: Sequence[Record],
    retain: Sequence[Record],
    questions: Sequence[Record],
    mmlu_validation: Sequence[Record],
    mmlu_test: Sequence[Record],
    general: Sequence[Record] = (),
) -> BenchmarkData:
    """Return a domain of WMDP: texts to forget and to keep, its questions and those of MMLU.

    Args:
        settings: The domain, and numbers of texts and questions.
        forget: Rows of the domain's forget corpus, with `text`.
        retain: Rows of WikiText or of the domain's retain corpus, with `text`.
        questions: Rows of the domain's questions: `question`, `choices`, `answer`.
        mmlu_validation: Rows of MMLU's validation split, which have `subject` too.
        mmlu_test: Rows of MMLU's test split.
        general: Rows of WikiText's test split, for the general loss.

    Raises:
        InputError: For the first row that cannot be used; if there are too few of a kind.
    """
    of_mmlu = mmlu_questions(
        mmlu_validation, mmlu_test, settings.selection_questions, settings.mmlu_questions
    )
    return BenchmarkData(
        forget=_texts(settings.forget_corpus, forget, settings),
        retain=_texts(settings.retain_corpus, retain, settings),
        questions=_questions(settings.domain, questions, settings.selection_questions) + of_mmlu,
        general=general_passages(general, settings.general_texts),
    )


def _texts(corpus: str, records: Sequence[Record], settings: WmdpSettings) -> list[Text]:
    long = long_texts(corpus, records, settings.min_length)
    number = len(long) if settings.max_texts is None else settings.max_texts
    return [Text(long[position], corpus) for position in sample_positions(long, number)]


def _questions(domain: str, records: Sequence[Record], number: int) -> list[Question]:
    """Return the domain's questions in the order of the rows, split into two parts."""
    asked = [
        lm_eval_question(
            lm_eval_task("wmdp", f"wmdp_{domain}"),
            record,
            where=f"wmdp-{domain}, row {line}",
            subject="forget",
            topic=f"wmdp-{domain}",
        )
        for line, record in enumerate(records, 1)
    ]
    split = split_questions(asked, number)
    if len(split) < number + MIN_PER_PART:
        raise InputError(
            f"wmdp-{domain} has {len(asked)} questions: with benchmark.selection_questions "
            f"{number} fewer than {MIN_PER_PART} are left to report."
        )
    return split


def _inputs(settings: WmdpSettings) -> dict[str, str]:
    domain = f"wmdp_{settings.domain}"
    return {
        "forget": f"{domain}_forget",
        "retain": "wikitext" if settings.retain == "wikitext" else f"{domain}_retain",
        "questions": f"{domain}_questions",
        "mmlu_validation": "mmlu_validation",
        "mmlu_test": "mmlu_test",
        **settings.general_input(),
    }


BENCHMARK = Benchmark(
    WmdpSettings,
    prepare,
    inputs=_inputs,
    has_pretraining_texts=False,
    has_passages=False,
)
