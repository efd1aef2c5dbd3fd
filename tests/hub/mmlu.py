"""A repository of MMLU, about things that do not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import ClassLabel, Features, List, Value
from tests.hub import parquet

Row = dict[str, Any]

FEATURES = Features(
    {
        "question": Value("string"),
        "subject": Value("string"),
        "choices": List(Value("string")),
        "answer": ClassLabel(names=["A", "B", "C", "D"]),
    }
)
# Real subjects, for lm-eval knows no others; one is twice as large as another.
SUBJECTS = {"anatomy": 16, "college_physics": 12, "high_school_us_history": 8}


def questions(split: str, share: float = 1.0) -> list[Row]:
    """Return so much of the subjects' questions."""
    return [
        {
            "question": f"In the {split} book of {subject}, what is on page {page}?",
            "subject": subject,
            "choices": [f"a {thing} of {page}" for thing in ("hat", "cup", "key", "owl")],
            "answer": (5 * page) % 4,
        }
        for subject, count in SUBJECTS.items()
        for page in range(int(count * share))
    ]


def write(folder: Path) -> Path:
    """Write a folder laid out as cais/mmlu, with its configuration `all`."""
    splits = {"test": 1.0, "validation": 0.5, "dev": 0.25}
    rows = {split: questions(split, share) for split, share in splits.items()}
    return parquet.write(folder, {"all": rows}, FEATURES)
