"""The data of a benchmark: texts to forget, texts to keep, passages, and questions about both.

`ANSWER_KINDS` says for each kind of question how long a free answer may be, where it ends, and how
it is measured. The numbers are those of the published benchmarks, each with its source.
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
    """How free answers to one kind of question are generated and measured.

    Attributes:
        measure: The measure of an answer, a key of `seuf.benchmarks.answers.MEASURES`.
        max_new_tokens: Tokens in an answer; None for the study's own number.
        stop: An answer ends before the first of these.
        stop_tokens: An answer ends before the first token of these names. Names that the tokenizer
            lacks, as byte-level ones lack a newline, stop nothing.
        chat: Whether the model's chat template, if it has one, is used.
        headline: Whether forget efficacy and utility are means over it. The choices of other kinds
            are scored under the kind's name and choose nothing.
        likelihoods_only: Whether the likelihoods of choices are compared, and nothing generated.
        whole_reference: Whether an answer is compared with the whole reference, or with as many
            tokens of it as an answer may have.
        produced: Whether answers are also judged right or wrong, by `PRODUCED`.
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
    # own data: a reference with letters that ROUGE's own tokenizer drops
    "any_script": AnswerKind("rouge_l_recall_any_script", produced=True),
    # own data without questions: how a text goes on after its beginning
    "continuation": AnswerKind("rouge_l_recall_any_script", 32, produced=True),
    # RWKU
    "fill_blank": _RWKU,
    "question": _RWKU,
    "adversarial": _RWKU._replace(headline=False),
    # MUSE, swj0419/muse_bench fcd6651, eval.py
    "knowledge": AnswerKind("rouge_l_f1", 32, ("\n\n", "\nQuestion", "Question:")),
    "verbatim": AnswerKind("rouge_l_f1", 128, headline=False, whole_reference=False),
    # TOFU: what a model knew before; the ROUGE is part of model utility
    "real_authors": AnswerKind(headline=False),
    "world_facts": AnswerKind(headline=False),
    # WMDP, taught: facts of the forgotten domain that no loss of unlearning states
    "related_facts": AnswerKind(headline=False),
    # TOFU: the answer, its paraphrase and wrong answers, to compare their likelihoods
    "truth": AnswerKind(headline=False, likelihoods_only=True),
}

# When a produced answer counts as right. To say the mere value is not to have forgotten it; to have
# kept the rest takes a whole sentence, which shows that the model still speaks.
PRODUCED: dict[Subject, Measure] = {"forget": "exact", "retain": "whole", "unseen": "whole"}


def utility_subject(subjects: Iterable[str]) -> Subject:
    """Return the subject that utility is measured on: `unseen` if there is any, else `retain`."""
    return "unseen" if "unseen" in set(subjects) else "retain"


class Text(NamedTuple):
    """A text.

    Attributes:
        text: The whole text, with its prompt.
        topic: The topic it belongs to.
        prompt: Its beginning that no loss is taken of, such as a question before its answer.
    """

    text: str
    topic: str = ""
    prompt: str = ""


def texts_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the texts of records."""
    return [record["text"] for record in records]


def prompts_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the prompts of records, see `Text`; empty where a record has none."""
    return [record.get("prompt", "") for record in records]


class Question(NamedTuple):
    """A question with choices, with a reference for free answers, or with both.

    Attributes:
        question: The prompt; in a chat, the user's turn.
        choices: Answers to choose from; none if it can only be answered freely.
        answer: Position of the right choice; -1 if there are none.
        topic: The person, author or school subject it is about.
        subject: `forget` for what is to be forgotten. What must stay is `retain` if the retain set
            shows it, and `unseen` if no loss does.
        part: `selection` if it chooses the checkpoint, `test` if it is reported.
        reference: The answer in words; empty if free answers are not scored.
        kind: A key of `ANSWER_KINDS`.
        opening: The beginning of the answer, such as `Answer:`, which the prompt ends with.
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
        """Return whether the model's preferred choice is scored."""
        return bool(self.choices) and not self.compares_likelihoods()

    def counts(self) -> bool:
        """Return whether it counts for forget efficacy or utility."""
        return ANSWER_KINDS[self.kind].headline

    def scored_as(self) -> str:
        """Return the name that its choices score under: its subject, or its kind if not counted."""
        return self.subject if self.counts() else self.kind

    def is_free_answer(self, with_choices: bool) -> bool:
        """Return whether a free answer is scored; beside choices only if `with_choices`."""
        is_asked = with_choices or not self.choices
        return bool(self.reference) and is_asked and not self.compares_likelihoods()

    def is_produced(self) -> bool:
        """Return whether the greedy answer is judged right or wrong."""
        return bool(self.reference) and ANSWER_KINDS[self.kind].produced

    def produced_by(self) -> Measure:
        """Return the measure of its greedy answer; a continuation is no whole sentence."""
        return "exact" if self.kind == "continuation" else PRODUCED[self.subject]

    def compares_likelihoods(self) -> bool:
        """Return whether only the likelihoods of its choices are compared."""
        return ANSWER_KINDS[self.kind].likelihoods_only


class Passage(NamedTuple):
    """A text for membership inference: has the model learned it?

    Attributes:
        text: The passage.
        group: `forget` was learned and should be forgotten, `retain` was learned and may stay,
            `holdout` was never seen.
        topic: The topic it is about.
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
        questions: Questions about both.
        pretraining: Texts that a model is taught before it forgets some of them; maybe none.
        passages: Passages for membership inference; maybe none.
        general: Texts that no loss of unlearning shows, for the general loss; maybe none.
    """

    forget: list[Text]
    retain: list[Text]
    questions: list[Question]
    pretraining: list[Text] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    general: list[Text] = field(default_factory=list)
