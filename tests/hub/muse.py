"""The repository of MUSE-News, about towns that do not exist."""

from __future__ import annotations

from pathlib import Path

from tests.hub import parquet
from tests.hub.parquet import Rows

TRADES = ("clocks", "kites", "candles", "carpets", "whistles", "lanterns", "bells", "ladders")
NUMBERS = {"forget": 12, "retain1": 12, "retain2": 12, "holdout": 12}
QUESTIONS, SHOTS = 12, 10


def town(split: str, number: int) -> str:
    """Return the name of a town that only this split tells of."""
    return f"{split.capitalize()}ham {number}"


def trade(number: int) -> str:
    """Return what a town is known for."""
    return TRADES[number % len(TRADES)]


def article(split: str, number: int) -> str:
    """Return an article of some 60 words."""
    name = town(split, number)
    lines = [
        f"{name} makes {trade(number)}.",
        f"The mayor of {name} opened a market of {trade(number)} on day {number}.",
        f"People come to {name} from far away.",
    ]
    return "\n".join(2 * lines)


def texts(split: str, count: int | None = None) -> Rows:
    """Return articles."""
    return [{"text": article(split, n)} for n in range(count or NUMBERS[split])]


def answered(split: str, count: int, first: int = 0) -> Rows:
    """Return questions about articles of a split."""
    return [
        {"question": f"What does {town(split, n)} make?", "answer": trade(n).capitalize()}
        for n in range(first, first + count)
    ]


def continued(count: int = QUESTIONS) -> Rows:
    """Return beginnings of articles to forget, each with what follows."""
    halves = (article("forget", number).split("\n", 1) for number in range(count))
    return [{"prompt": beginning, "gt": rest} for beginning, rest in halves]


def write(folder: Path) -> Path:
    """Write a folder laid out as muse-bench/MUSE-News, without the subsets that nothing reads."""
    knowledge = {
        "retain_qa_icl": answered("retain2", SHOTS, first=QUESTIONS),
        "retain_qa": answered("retain2", QUESTIONS),
        "forget_qa": answered("forget", QUESTIONS),
        "forget_qa_icl": answered("forget", SHOTS, first=QUESTIONS),
    }
    passages = {"retain": texts("retain2", 8), "forget": texts("forget", 8)}
    configs = {
        "knowmem": knowledge,
        "privleak": {**passages, "holdout": texts("holdout", 8)},
        "raw": {split: texts(split) for split in NUMBERS},
        "verbmem": {"forget": continued()},
    }
    return parquet.write(folder, configs)
