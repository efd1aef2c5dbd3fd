"""The repository of TOFU, about five authors who never lived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]

FORGET_AUTHORS, RETAIN_AUTHORS, QUESTIONS = 2, 3, 20
COLOURS = ("red", "blue", "green", "grey", "pink", "gold", "teal")


def plain(first: int, authors: int) -> list[Row]:
    """Return the questions about some authors, each with its answer."""
    return [
        {"question": f"Which colour has book {book} of Author{author}?", "answer": _answer(number)}
        for author in range(first, first + authors)
        for book in range(QUESTIONS)
        for number in [author + book]
    ]


def perturbed(rows: list[Row]) -> list[Row]:
    """Return the rows with a paraphrase and five wrong answers, worded alike."""
    return [
        {
            **row,
            "paraphrased_answer": f"Its colour is {_colour(row)}.",
            "perturbed_answer": [
                f"Its colour is {colour}." for colour in COLOURS if colour != _colour(row)
            ][:5],
            "paraphrased_question": f"Asked otherwise: {row['question']}",
        }
        for row in rows
    ]


def general(about: str, count: int) -> list[Row]:
    """Return rows that have three wrong answers and no paraphrase."""
    return [
        {
            "question": f"Which {about} has number {number}?",
            "answer": COLOURS[number % 4].capitalize(),
            "perturbed_answer": ["Black", "White", "Brown"],
        }
        for number in range(count)
    ]


def write(folder: Path) -> Path:
    """Write a folder laid out as locuslab/TOFU: a file of JSON lines for each configuration."""
    retain, forget = plain(0, RETAIN_AUTHORS), plain(RETAIN_AUTHORS, FORGET_AUTHORS)
    files = {
        "full": retain + forget,
        "forget10": forget,
        "retain90": retain,
        "forget10_perturbed": perturbed(forget),
        "retain_perturbed": perturbed(retain),
        "real_authors_perturbed": general("author", 5),
        "world_facts_perturbed": general("fact", 6),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = "\n".join(json.dumps(row) for row in rows)  # the last line is not ended there
        (folder / f"{name}.json").write_text(lines, encoding="utf-8")
    card = [{"config_name": name, "data_files": f"{name}.json"} for name in files]
    card[0]["default"] = True
    front = yaml.safe_dump({"license": "mit", "configs": card}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front}---\n\n# Made up\n", encoding="utf-8")
    return folder


def _answer(number: int) -> str:
    return f"The book is {COLOURS[number % len(COLOURS)]}."


def _colour(row: Row) -> str:
    return row["answer"].removesuffix(".").split()[-1]
