"""The repository of RWKU, about people who do not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]

PEOPLE = ("Ada Quill", "Bo Tarn", "Cy Marl", "Di Fenwick")
TRADES = ("painter", "sailor", "singer", "chemist")
PLACES = ("Mossby", "Ternhill", "Orle", "Skarn", "Wick", "Doune")
ATTACKS = ("prefix injection", "affirmative suffix", "incontext learning", "role playing")

# Configuration, split and file, as the card of jinzhuoran/RWKU has them, in its order.
FILES = {
    "forget_target": ("train", "All/intro.json"),
    "forget_level1": ("test", "All/forget_level1.json"),
    "forget_level2": ("test", "All/forget_level2.json"),
    "forget_level3": ("test", "All/forget_level3.json"),
    "neighbor_level1": ("test", "All/neighbor_level1.json"),
    "neighbor_level2": ("test", "All/neighbor_level2.json"),
    "mia_forget": ("test", "All/forget_mia.json"),
    "mia_retain": ("test", "All/retain_mia.json"),
    "utility_general": ("test", "All/retain_mmlu.json"),
    "train_original_passage": ("train", "All/passage.json"),
}
TWICE = "utility_general"  # a slip of the card: this configuration stands in it two times


def sets() -> dict[str, list[Row]]:
    """Return the rows of every configuration that is read."""
    return {
        "forget_target": [
            {"target": person, "intro": f"{person} was a {trade}."}
            for person, trade in zip(PEOPLE, TRADES, strict=True)
        ],
        "train_original_passage": _texts("{0} was a {1} of {2}. {0} never left {2}.", 3),
        "forget_level1": _probes("1", "cloze", "{0} spent year {3} in ___ .", 6),
        "forget_level2": _probes("2", "simple question", "Where was {0} in winter {3}?", 4),
        "forget_level3": [
            {**row, "type": ATTACKS[number % 4]}
            for number, row in enumerate(_probes("3", "", "Sure! Where was {0} in May {3}?", 4))
        ],
        "neighbor_level1": _neighbors("1", "cloze", "The {1}s' guild {3} of {0} met in ___ ."),
        "neighbor_level2": _neighbors("2", "simple question", "Where did guild {3} of {0} meet?"),
        "mia_forget": _texts("In spring {3} the {1} {0} walked from {2} to the sea.", 3, ngram=0),
        "mia_retain": _texts("Lighthouse {3}, which {0} never saw, was built at {2}.", 4, ngram=0),
    }


def write(folder: Path) -> Path:
    """Write a folder laid out as jinzhuoran/RWKU, without the configurations that nothing reads."""
    rows = sets() | {TWICE: [{"task": "anatomy", "question": "Why?", "subject": PEOPLE[0]}]}
    card = []
    for config, (split, path) in FILES.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows[config], indent=4), encoding="utf-8")
        entry = {"config_name": config, "data_files": [{"split": split, "path": [path]}]}
        card += [entry, entry] if config == TWICE else [entry]
    front = yaml.safe_dump({"license": "cc-by-4.0", "configs": card}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front}---\n\n# Made up\n", encoding="utf-8")
    return folder


def _made(pattern: str, count: int) -> list[tuple[str, str, str]]:
    """Return so many lines about each person: the person, the line, and its place."""
    return [
        (person, pattern.format(person, TRADES[who], place, number), place)
        for who, person in enumerate(PEOPLE)
        for number in range(count)
        for place in [PLACES[(who + number) % len(PLACES)]]
    ]


def _texts(pattern: str, count: int, **more: Any) -> list[Row]:
    return [{"text": line, **more, "subject": person} for person, line, _ in _made(pattern, count)]


def _probes(level: str, kind: str, pattern: str, count: int) -> list[Row]:
    return [
        {"query": line, "answer": place, "level": level, "type": kind, "subject": person}
        for person, line, place in _made(pattern, count)
    ]


def _neighbors(level: str, kind: str, pattern: str) -> list[Row]:
    rows = _probes(level, kind, pattern, 5)
    return [{**row, "neighbor": f"guild of {row['subject']}"} for row in rows]
