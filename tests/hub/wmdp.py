"""Three repositories of WMDP, about things that do not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Features, List, Value
from tests.hub import parquet

Row = dict[str, Any]

QUESTIONS = Features(
    {"answer": Value("int64"), "question": Value("string"), "choices": List(Value("string"))}
)
TEXTS = Features({"text": Value("string")})
PAPERS = Features({name: Value("string") for name in ("title", "abstract", "text", "doi")})
NUMBERS = {"bio": 20, "chem": 6, "cyber": 24}
WORDS = {"bio": "snark", "chem": "boojum", "cyber": "jabberwock"}
COLOURS = ("red", "blue", "green", "grey", "pink", "gold")


def questions(domain: str, count: int | None = None) -> list[Row]:
    """Return questions of a domain; the first begins and ends in spaces, as some of WMDP do."""
    rows = []
    for number in range(NUMBERS[domain] if count is None else count):
        text = f"Which colour has {WORDS[domain]} number {number}?"
        first = number % len(COLOURS)
        choices = [COLOURS[(first + step) % len(COLOURS)] for step in range(4)]
        rows.append(
            {
                "question": text if number else f"  {text}\n",
                "choices": choices,
                "answer": (7 * number) % 4,
            }
        )
    return rows


def texts(topic: str, count: int = 40) -> list[Row]:
    """Return texts of 30 sentences, and every eighth of one."""
    return [
        {
            "text": " ".join(
                f"The {topic} number {number} is {COLOURS[(number + line) % len(COLOURS)]} "
                f"in year {line}."
                for line in range(30 if number % 8 else 1)
            )
        }
        for number in range(count)
    ]


def papers(count: int = 40) -> list[Row]:
    """Return what the gated corpus has beside its texts."""
    return [
        {"title": f"On snark {n}", "abstract": f"Abstract {n}.", "doi": f"10.0/{n}", **row}
        for n, row in enumerate(texts("snark", count))
    ]


def write_questions(folder: Path) -> Path:
    """Write a folder laid out as cais/wmdp."""
    configs = {f"wmdp-{domain}": {"test": questions(domain)} for domain in NUMBERS}
    return parquet.write(folder, configs, QUESTIONS)


def write_corpora(folder: Path) -> Path:
    """Write a folder laid out as cais/wmdp-corpora."""
    configs = {
        "bio-retain-corpus": {"train": texts("rabbit")},
        "cyber-forget-corpus": {"train": texts("jabberwock")},
        "cyber-retain-corpus": {"train": texts("teapot")},
    }
    return parquet.write(folder, configs, TEXTS)


def write_bio_forget_corpus(folder: Path) -> Path:
    """Write a folder laid out as cais/wmdp-bio-forget-corpus."""
    return parquet.write(folder, {"default": {"train": papers()}}, PAPERS, within="data", shards=2)
