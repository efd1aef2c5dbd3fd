"""What a benchmark is made of: texts to forget, texts to keep, and questions about both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Subject = Literal["forget", "retain"]
Part = Literal["selection", "test"]


class Text(NamedTuple):
    """A passage and the topic it belongs to."""

    text: str
    topic: str = ""


def texts_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the texts of records that were read from a file."""
    return [record["text"] for record in records]


class Question(NamedTuple):
    """A multiple-choice question.

    `subject` says whose knowledge it asks for, `part` whether it chooses the checkpoint
    (`selection`) or is reported (`test`). With a `reference`, a free answer can be scored too.
    """

    question: str
    choices: list[str]
    answer: int
    topic: str
    subject: Subject
    part: Part
    reference: str = ""


@dataclass(frozen=True)
class Benchmark:
    """Everything a study reads from its benchmark."""

    forget: list[Text]
    retain: list[Text]
    questions: list[Question]
    pretraining: list[Text] = field(default_factory=list)
