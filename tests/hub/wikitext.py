"""A repository of WikiText-2, about a town that does not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Features, Value
from tests.hub import parquet

FEATURES = Features({"text": Value("string")})


def rows(count: int = 40) -> list[dict[str, Any]]:
    """Return lines as WikiText has them: empty, headings, paragraphs with spaced-out signs."""
    lines = []
    for number in range(count):
        sentence = f"House {number} of Trebrith , built in {1700 + number} , has {number} rooms . "
        lines += ["", f" = House {number} = \n", f" {5 * sentence}\n"]
    return [{"text": line} for line in lines]


def write(folder: Path) -> Path:
    """Write a folder laid out as Salesforce/wikitext, with one of its configurations."""
    splits = {"train": rows(), "validation": rows(4), "test": rows(4)}
    return parquet.write(folder, {"wikitext-2-raw-v1": splits}, FEATURES)
