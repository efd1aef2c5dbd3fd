"""What a benchmark is made of: texts to forget, texts to keep, and questions about both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from seuf.benchmarks.kinds import KINDS

Subject = Literal["forget", "retain"]
Part = Literal["selection", "test"]
Group = Literal["forget", "retain", "holdout"]


class Text(NamedTuple):
    """A passage and the topic it belongs to."""

    text: str
    topic: str = ""


def texts_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the texts of records that were read from a file."""
    return [record["text"] for record in records]


class Question(NamedTuple):
    """A question with choices, with a reference that a free answer is held against, or with both.

    Attributes:
        question: What the model reads; in a chat, the user's turn.
        choices: Answers to choose from; none if it can only be answered freely.
        answer: Position of the right choice; -1 if there are none.
        topic: What it is about: a person, an author, a school subject.
        subject: Whose knowledge it asks for.
        part: Whether it chooses the checkpoint (`selection`) or is reported (`test`).
        reference: The answer in words; empty if free answers are not scored.
        kind: What kind of probe it is, a key of `seuf.benchmarks.kinds.KINDS`.
        opening: How the answer begins, put into the model's mouth, such as `Answer:`.
    """

    question: str
    choices: list[str]
    answer: int
    topic: str
    subject: Subject
    part: Part
    reference: str = ""
    kind: str = "answer"
    opening: str = ""

    def is_chosen(self) -> bool:
        """Tell if it is asked by its choices."""
        return bool(self.choices) and not KINDS[self.kind].likelihoods

    def is_answered(self, with_choices: bool) -> bool:
        """Tell if it is asked for a free answer, with choices only if these shall be too."""
        asked = with_choices or not self.choices
        return bool(self.reference) and asked and not KINDS[self.kind].likelihoods

    def is_compared(self) -> bool:
        """Tell if only the likelihoods of its choices are compared."""
        return KINDS[self.kind].likelihoods


class Passage(NamedTuple):
    """A text of which a membership inference attack tells if the model has learned it.

    Attributes:
        text: The passage.
        group: `forget` was learned and should be forgotten, `retain` was learned and may be known,
            `holdout` was never seen.
        topic: What it is about.
    """

    text: str
    group: Group
    topic: str = ""


@dataclass(frozen=True)
class Benchmark:
    """Everything a study reads from its benchmark.

    Attributes:
        forget: Texts to forget.
        retain: Texts to keep.
        questions: About both.
        pretraining: What a model is taught that is to forget some of it again.
        passages: What membership inference is tried on; none where a benchmark has no such part.
    """

    forget: list[Text]
    retain: list[Text]
    questions: list[Question]
    pretraining: list[Text] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
