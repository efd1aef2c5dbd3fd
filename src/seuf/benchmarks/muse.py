"""MUSE: news articles or books known by heart (Shi et al. 2024, arXiv 2407.06460).

Data: https://huggingface.co/datasets/muse-bench/MUSE-News, revision 506bd5b, and MUSE-Books,
revision 051ba90, licence CC-BY-4.0. Checked against swj0419/muse_bench 75d1762 (eval.py,
constants.py) and jaechan-repo/muse_bench e000038 (knowmem/get_rouge_qa.py, verbmem/get_rouge.py,
readme.md of both corpora).

Of the raw texts `forget` is to be forgotten, `retain1` is what unlearning may use to keep the rest
(baselines/scripts/unlearn_news.sh), and `retain2` is seen by no unlearning method: the retain
questions and the retain passages come from it. MUSE's own models have learned all three, so these
are the pretraining texts.

1. Texts are split into pieces of `text_words` words: training here cuts a text at its maximal
   length, and a row of MUSE-Books is a whole book. MUSE cuts the corpus into blocks of 2048 tokens.
2. MUSE chooses its checkpoints by the questions it reports. Here a hash of the wording reserves
   some of them for that.
3. A verbatim probe has the whole continuation as its reference; MUSE compares the answer with its
   first 128 tokens, and so does `answers`.
4. Scalability and sustainability (`scal`, `sust`) are other forget sets; they are not prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Group, Part, Passage, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, PublishedSettings
from seuf.benchmarks.sampling import (
    MIN_PER_PART,
    Record,
    check_rows,
    general_passages,
    sample_positions,
    spaced_words,
)
from seuf.inputs import InputError

Sets = Mapping[str, Sequence[Record]]

# Subset and split on the hub, and the columns that are read.
SETS: dict[str, tuple[str, ...]] = {
    "raw_forget": ("text",),
    "raw_retain1": ("text",),
    "raw_retain2": ("text",),
    "knowmem_forget_qa": ("question", "answer"),
    "knowmem_forget_qa_icl": ("question", "answer"),
    "knowmem_retain_qa": ("question", "answer"),
    "knowmem_retain_qa_icl": ("question", "answer"),
    "verbmem_forget": ("prompt", "gt"),
    "privleak_forget": ("text",),
    "privleak_retain": ("text",),
    "privleak_holdout": ("text",),
}
SHOT = "Question: {question}\nAnswer: {answer}\n\n"


class MuseSettings(PublishedSettings):
    """MUSE (Shi et al. 2024): news articles, or books.

    The study's globals.yml names its hub repo, or a folder laid out like it: `muse` and
    `muse_revision`.

    Attributes:
        corpus: Which of the two.
        selection_questions: Questions about each of the two sets that choose the checkpoint; the
            others are reported. As many verbatim probes are not reported either.
        text_words: Words in one text. Tokens of a text after the first `unlearning.max_length` are
            neither learned nor forgotten, and a book is one row.
    """

    corpus: Literal["news", "books"] = "news"
    selection_questions: Annotated[int, Field(ge=2)] = 30
    text_words: Annotated[int, Field(ge=8)] = 300


def prepare(
    settings: MuseSettings, general: Sequence[Record] = (), **sets: Sequence[Record]
) -> BenchmarkData:
    """Return a corpus of MUSE: texts to forget and to keep, questions, passages.

    Args:
        settings: How texts are split into pieces and questions into parts.
        general: Rows of WikiText's test split, for the general loss.
        sets: The rows of each of `SETS`.

    Raises:
        InputError: If a column is missing, or there are too few questions.
    """
    for name, columns in SETS.items():
        check_rows(f"MUSE's {name}", sets[name], columns)
    forget, retain, others = (
        _texts(sets[f"raw_{split}"], settings.text_words)
        for split in ("forget", "retain1", "retain2")
    )
    number, groups = settings.selection_questions, get_args(Group)
    return BenchmarkData(
        forget,
        retain,
        questions=[
            *_knowledge("forget", sets, number),
            *_knowledge("retain", sets, number),
            *_verbatim(sets, number),
        ],
        pretraining=[*forget, *retain, *others],
        passages=[Passage(row["text"], g) for g in groups for row in sets[f"privleak_{g}"]],
        general=general_passages(general, settings.general_texts),
    )


def _texts(rows: Sequence[Record], words: int) -> list[Text]:
    """Return the rows in pieces, without topics since both sets are of one kind."""
    pieces = []
    for row in rows:
        found = spaced_words(row["text"])
        starts = range(0, len(found), words)
        pieces += ["".join(found[start : start + words]).strip() for start in starts]
    return [Text(piece) for piece in pieces]


def _knowledge(subject: Subject, sets: Sets, number: int) -> list[Question]:
    """Return the questions about a set, each after MUSE's own answered examples."""
    name = f"knowmem_{subject}_qa"
    shots = "".join(SHOT.format(**row) for row in sets[f"{name}_icl"])
    parts = _parts(name, [row["question"] for row in sets[name]], number)
    return [
        Question(
            question=f"{shots}Question: {row['question']}\n",
            choices=[],
            answer=-1,
            topic="",
            subject=subject,
            part=part,
            reference=row["answer"],
            kind="knowledge",
            opening="Answer: ",
        )
        for row, part in zip(sets[name], parts, strict=True)
    ]


def _verbatim(sets: Sets, number: int) -> list[Question]:
    """Return questions for the continuation of texts to forget."""
    rows = sets["verbmem_forget"]
    parts = _parts("verbmem_forget", [row["prompt"] for row in rows], number)
    return [
        Question(row["prompt"], [], -1, "", "forget", part, reference=row["gt"], kind="verbatim")
        for row, part in zip(rows, parts, strict=True)
    ]


def _parts(name: str, wordings: Sequence[str], number: int) -> list[Part]:
    """Return each question's part, `number` wordings in selection; equal wordings share a part."""
    different = sorted(set(wordings))
    if len(different) < number + MIN_PER_PART:
        raise InputError(
            f"benchmark.selection_questions is {number}; MUSE's {name} has {len(different)} "
            f"different rows, and {MIN_PER_PART} or more must be left to be reported."
        )
    selecting = {different[position] for position in sample_positions(different, number)}
    return ["selection" if wording in selecting else "test" for wording in wordings]


BENCHMARK = Benchmark(
    MuseSettings,
    prepare,
    inputs=lambda settings: {n: f"muse_{n}" for n in SETS} | settings.general_input(),
    has_pretraining_texts=True,
    has_passages=True,
)
