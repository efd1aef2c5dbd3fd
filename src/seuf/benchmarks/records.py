"""What a benchmark is made of: texts to forget, texts to keep, passages, and questions about both.

`ANSWER_KINDS` says for each kind of question how long a free answer may be, where it ends, and what
it is measured by. The numbers are the published benchmarks' own, each with the code it is from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Measure = Literal[
    "rouge_l_recall",
    "rouge_l_recall_any_script",
    "rouge_l_f1",
    "rouge_l_recall_pltrdy",
    "exact",
    "whole",
]
Subject = Literal["forget", "retain", "unseen"]
Part = Literal["selection", "test"]
Group = Literal["forget", "retain", "holdout"]


class AnswerKind(NamedTuple):
    """How free answers to one kind of question are made and measured.

    Attributes:
        measure: What an answer is measured by, a key of `seuf.benchmarks.answers.MEASURES`.
        max_new_tokens: Tokens in an answer; None for the study's own number.
        stop: An answer ends before the first of these.
        stop_tokens: An answer ends before the first token of these names; where the tokenizer has
            none so called, as byte-level ones have no newline, nothing stops.
        chat: Asked in the model's chat template, if it has one.
        headline: Whether the study's forget efficacy and utility are means over it; choices of
            another kind are scored by its name, and choose nothing.
        likelihoods_only: No answer is generated: the likelihoods of the choices are compared.
        whole_reference: Whether an answer is compared with the whole reference, or with as many
            tokens of it as an answer may have.
        produced: Whether answers are also right or wrong, by `PRODUCED`.
    """

    measure: Measure = "rouge_l_recall"
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    chat: bool = False
    headline: bool = True
    likelihoods_only: bool = False
    whole_reference: bool = True
    produced: bool = False


# jinzhuoran/RWKU b8a03b3, llmtuner/eval/eval_forget.py: 30 tokens, up to one that is a newline.
_RWKU = AnswerKind("rouge_l_recall_pltrdy", 30, stop_tokens=("<|eot_id|>", " \n", "\n"), chat=True)

ANSWER_KINDS: dict[str, AnswerKind] = {
    "answer": AnswerKind(produced=True),
    # your own data: a reference with letters that ROUGE's own tokenizer does not know
    "any_script": AnswerKind("rouge_l_recall_any_script", produced=True),
    # and texts that nobody asks about: how each goes on after its beginning
    "continuation": AnswerKind("rouge_l_recall_any_script", 32, produced=True),
    # RWKU
    "fill_blank": _RWKU,
    "question": _RWKU,
    "adversarial": _RWKU._replace(headline=False),
    # MUSE, swj0419/muse_bench fcd6651, eval.py
    "knowledge": AnswerKind("rouge_l_f1", 32, ("\n\n", "\nQuestion", "Question:")),
    "verbatim": AnswerKind("rouge_l_f1", 128, headline=False, whole_reference=False),
    # TOFU: what a model knew before it, whose ROUGE is part of its model utility
    "real_authors": AnswerKind(headline=False),
    "world_facts": AnswerKind(headline=False),
    # WMDP, taught: facts that no loss of unlearning states, of the domain that is forgotten
    "related_facts": AnswerKind(headline=False),
    # TOFU: the answer, its paraphrase and wrong answers, of which only likelihoods are compared
    "truth": AnswerKind(headline=False, likelihoods_only=True),
}

# What a produced answer must be to count. Of what is forgotten the mere value is too much; of the
# rest only a whole sentence shows that the model still speaks.
PRODUCED: dict[Subject, Measure] = {"forget": "exact", "retain": "whole", "unseen": "whole"}


def utility_subject(subjects: Iterable[str]) -> Subject:
    """Return which questions utility is measured on: the unseen ones, where there are any."""
    return "unseen" if "unseen" in set(subjects) else "retain"


class Text(NamedTuple):
    """A text.

    Attributes:
        text: All of it.
        topic: What it belongs to.
        prompt: How it begins, if no loss is to be taken of that: a question before its answer.
    """

    text: str
    topic: str = ""
    prompt: str = ""


def texts_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the texts of records that were read from a file."""
    return [record["text"] for record in records]


def prompts_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how the texts of records begin, see `Text`; nothing where a record has no prompt."""
    return [record.get("prompt", "") for record in records]


class Question(NamedTuple):
    """A question with choices, with a reference that a free answer is compared with, or with both.

    Attributes:
        question: What the model reads; in a chat, the user's turn.
        choices: Answers to choose from; none if it can only be answered freely.
        answer: Position of the right choice; -1 if there are none.
        topic: What it is about: a person, an author, a school subject.
        subject: Whether it asks for what is to be forgotten (`forget`) or for what must stay: what
            the retain set shows (`retain`), or what no loss ever shows (`unseen`).
        part: Whether it chooses the checkpoint (`selection`) or is reported (`test`).
        reference: The answer in words; empty if free answers are not scored.
        kind: A key of `ANSWER_KINDS`.
        opening: Text that the answer begins with, such as `Answer:`; it is part of the prompt.
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

    def is_multiple_choice(self) -> bool:
        """Tell if the choice that the model prefers is scored."""
        return bool(self.choices) and not self.compares_likelihoods()

    def counts(self) -> bool:
        """Tell if it is of a kind that forget efficacy and utility are made of."""
        return ANSWER_KINDS[self.kind].headline

    def scored_as(self) -> str:
        """Return by what name its choices are scored: its subject, or a kind that stands apart."""
        return self.subject if self.counts() else self.kind

    def is_free_answer(self, with_choices: bool) -> bool:
        """Tell if a free answer is scored; of questions with choices only if `with_choices`."""
        asked = with_choices or not self.choices
        return bool(self.reference) and asked and not self.compares_likelihoods()

    def is_produced(self) -> bool:
        """Tell if the greedy answer is right or wrong, beside any other score."""
        return bool(self.reference) and ANSWER_KINDS[self.kind].produced

    def produced_by(self) -> Measure:
        """Return what its greedy answer must be to count; a continuation is no whole sentence."""
        return "exact" if self.kind == "continuation" else PRODUCED[self.subject]

    def compares_likelihoods(self) -> bool:
        """Tell if only the likelihoods of its choices are compared."""
        return ANSWER_KINDS[self.kind].likelihoods_only


class Passage(NamedTuple):
    """A text of which membership inference tells if the model has learned it.

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
class BenchmarkData:
    """Everything a study reads from its benchmark.

    Attributes:
        forget: Texts to forget.
        retain: Texts to keep.
        questions: About both.
        pretraining: What a model is taught before it forgets a part of it.
        passages: What membership inference is tried on; none where a benchmark has no such part.
        general: Texts that no loss of unlearning shows, for the general loss; maybe none.
    """

    forget: list[Text]
    retain: list[Text]
    questions: list[Question]
    pretraining: list[Text] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    general: list[Text] = field(default_factory=list)
