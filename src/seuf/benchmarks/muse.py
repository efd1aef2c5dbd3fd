"""MUSE: news articles or books that are known by heart (Shi et al. 2024, arXiv 2407.06460).

Data: https://huggingface.co/datasets/muse-bench/MUSE-News, revision 506bd5b, and MUSE-Books,
revision 051ba90, licence CC-BY-4.0. Checked against swj0419/muse_bench 75d1762 (eval.py,
constants.py) and jaechan-repo/muse_bench e000038 (knowmem/get_rouge_qa.py, verbmem/get_rouge.py,
readme.md of both corpora).

Of the raw texts `forget` is to be forgotten, `retain1` is what unlearning may use to keep the rest
(baselines/scripts/unlearn_news.sh), and `retain2` is seen by no unlearning method: the retain
questions and the retain passages come from it. MUSE's own models have learned all three, so these
are the pretraining texts.

1. Training here cuts a text at its maximal length, and a row of MUSE-Books is a whole book: texts
   are cut into pieces of some words. MUSE cuts the corpus into blocks of 2048 tokens.
2. MUSE chooses its checkpoints by the questions it reports. Here a hash of the wording keeps some
   of them for that.
3. A verbatim probe has the whole continuation as its reference; MUSE holds the answer against its
   first 128 tokens, and so does `answers`.
4. Scalability and sustainability (`scal`, `sust`) are other forget sets; they are not prepared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Group, Part, Passage, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, BenchmarkSettings
from seuf.benchmarks.sampling import MIN_PER_PART, Record, check_rows, sample_positions
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


class MuseSettings(BenchmarkSettings):
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

    corpus: Literal["news", "books"] = "news"
    selection_questions: Annotated[int, Field(ge=2)] = 30
    text_words: Annotated[int, Field(ge=8)] = 300


def prepare(settings: MuseSettings, **sets: Sequence[Record]) -> BenchmarkData:
    """Take a corpus of MUSE: texts to forget and to keep, questions, passages.

    Args:
        settings: How texts are cut and questions are split.
        sets: Rows of each of `SETS`, by its name.

    Raises:
        InputError: If a column is missing, or there are too few questions.
    """
    for name, columns in SETS.items():
        check_rows(f"MUSE's {name}", sets[name], columns)
    forget, retain, others = (
        _texts(sets[f"raw_{split}"], settings.text_words)
        for split in ("forget", "retain1", "retain2")
    )
    return BenchmarkData(
        forget,
        retain,
        questions=_questions(settings, sets),
        pretraining=[*forget, *retain, *others],
        passages=_passages(sets),
    )


def _texts(rows: Sequence[Record], words: int) -> list[Text]:
    """Return the rows cut into pieces; all without a topic, since both sets are of one kind."""
    return [Text(piece) for row in rows for piece in _pieces(row["text"], words)]


def _pieces(text: str, words: int) -> list[str]:
    found = re.findall(r"\s*\S+", text)  # a word with what stands before it: nothing is lost
    starts = range(0, len(found), words)
    return ["".join(found[start : start + words]).strip() for start in starts]


def _questions(settings: MuseSettings, sets: Sets) -> list[Question]:
    chosen = settings.selection_questions
    probes = [(row["prompt"], row["gt"]) for row in sets["verbmem_forget"]]
    return [
        *_knowledge("forget", sets, chosen),
        *_knowledge("retain", sets, chosen),
        *(
            _question(prompt, continuation, "forget", part, "verbatim")
            for (prompt, continuation), part in zip(
                probes, _parts("verbmem_forget", [p for p, _ in probes], chosen), strict=True
            )
        ),
    ]


def _knowledge(subject: Subject, sets: Sets, chosen: int) -> list[Question]:
    """Return the questions about a set, each after answered ones as MUSE has them."""
    name = f"knowmem_{subject}_qa"
    shots = "".join(SHOT.format(**row) for row in sets[f"{name}_icl"])
    parts = _parts(name, [row["question"] for row in sets[name]], chosen)
    return [
        _question(f"{shots}Question: {row['question']}\n", row["answer"], subject, part)
        for row, part in zip(sets[name], parts, strict=True)
    ]


def _question(
    prompt: str, reference: str, subject: Subject, part: Part, kind: str = "knowledge"
) -> Question:
    return Question(
        question=prompt,
        choices=[],
        answer=-1,
        topic="",
        subject=subject,
        part=part,
        reference=reference,
        kind=kind,
        opening="Answer: " if kind == "knowledge" else "",
    )


def _parts(name: str, wordings: Sequence[str], chosen: int) -> list[Part]:
    """Return each question's part: the first by their hash select, the same wording in one part."""
    different = sorted(set(wordings))
    if len(different) < chosen + MIN_PER_PART:
        raise InputError(
            f"benchmark.selection_questions is {chosen}; MUSE's {name} has {len(different)} "
            f"different rows, and {MIN_PER_PART} or more must be left to be reported."
        )
    selection = {different[place] for place in sample_positions(different, chosen)}
    return ["selection" if wording in selection else "test" for wording in wordings]


def _passages(sets: Sets) -> list[Passage]:
    groups: tuple[Group, ...] = ("forget", "retain", "holdout")
    return [Passage(row["text"], group) for group in groups for row in sets[f"privleak_{group}"]]


BENCHMARK = Benchmark(
    MuseSettings,
    prepare,
    inputs=lambda settings: {name: f"muse_{name}" for name in SETS},
    has_pretraining_texts=True,
    has_passages=True,
)
