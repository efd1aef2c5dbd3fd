"""Write the example files: the sandbox's world, which the sandbox's base model knows.

Run it again after a change of the sandbox: `python examples/own_data/write.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seuf.benchmarks import sandbox
from seuf.benchmarks.records import Question, Text
from seuf.benchmarks.sandbox import SandboxSettings

BASE_SEED = 0  # as in conf/base/parameters.yml


def examples() -> dict[str, list[dict[str, Any]]]:
    """Return the records of each file."""
    world = sandbox.prepare(SandboxSettings(), BASE_SEED)
    return {
        "forget.jsonl": [_text(text) for text in world.forget],
        "retain.jsonl": [_text(text) for text in world.retain],
        "general.jsonl": [_text(text) for text in world.general[::6]],
        "questions.jsonl": [_question(question) for question in world.questions],
    }


def _text(text: Text) -> dict[str, Any]:
    return {"text": text.text, "topic": text.topic}


def _question(question: Question) -> dict[str, Any]:
    kept = ("question", "choices", "answer", "reference", "subject", "topic")
    return {name: value for name, value in question._asdict().items() if name in kept}


def lines(records: Iterable[dict[str, Any]]) -> str:
    """Return the records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


if __name__ == "__main__":
    for name, records in examples().items():
        Path(__file__).with_name(name).write_text(lines(records), encoding="utf-8")
