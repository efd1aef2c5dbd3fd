"""TOFU: authors who never lived, twenty questions each (Maini et al. 2024, arXiv 2401.06121).

Data: https://huggingface.co/datasets/locuslab/TOFU, revision 324592d, licence MIT. Rows are as
published: an author is twenty rows in order, and the files with wrong answers match the plain ones
row by row (all of forget10, the first 400 rows of retain90), which is checked here.

1. A study may take only some authors: the first ones of each set.
2. The only texts are the questions with their answers. So unlearning sees the text of every
   question it is tested on, as in TOFU itself; `selection` and `test` hold different questions
   about the same authors. Losses are of the answers alone, as in TOFU's data_module.py: the
   question is a text's prompt.
3. TOFU compares probabilities of true and wrong answers. Here they are the choices of one question,
   so that all benchmarks are scored alike; ROUGE-L recall is TOFU's own (see `answers`).
   `metrics: full` adds TOFU's own comparison: each test question again, as kind `truth`, with the
   answer, its paraphrase and the wrong answers as choices. It was checked against locuslab/tofu
   8c49eee, see `truth` and `truth_ratios`.
4. Guessing is not exactly one in six, since choices differ in length and wording. Wrong answers are
   worded like the paraphrase: beside the learned answer (`true_answer: answer`) their form gives
   them away, and an untrained model with 512 tokens is right on .73 of the forget questions by
   `acc`. Beside the paraphrase a model that finds all tokens equally likely is right on .23.
5. TOFU compares all questions of forget10 (the first 300 in its published runs). Here half of them
   choose the checkpoint, so 200 are compared, and forget quality is higher for the same difference.
6. Real authors and world facts have no paraphrase, which their topic tells
   (`truth_ratios.PLAIN_SETS`): choices are the answer and the wrong ones. They are all in the test
   part, once for their likelihoods and once, as a kind of their own, for a free answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Question, Subject, Text
from seuf.benchmarks.registry import Benchmark, PublishedSettings
from seuf.benchmarks.sampling import Record, general_passages
from seuf.inputs import InputError

QUESTION = "Question: {question} Answer:"
QUESTIONS_AN_AUTHOR = 20


class TofuSettings(PublishedSettings):
    """TOFU (Maini et al. 2024), or a part of it that a small model can learn.

    Attributes:
        forget_authors: Number of authors of forget10, the first ones; at most 20.
        retain_authors: Number of authors of retain90, the first ones; at most 20, since TOFU has
            wrong answers for no more.
        retain_texts: The texts that are learned and kept: those of the authors `asked` about, or of
            `all` 180 of retain90.
        true_answer: The true answer beside the wrong ones: the learned one, or its paraphrase,
            which is worded like them.
        metrics: `choices` asks only the choices. `full` adds what forget quality and model utility
            need: likelihoods of true and wrong answers, real authors and world facts. It makes
            sense with a model large enough to know real authors and all 20 authors to forget; with
            fewer, forget quality has too few questions to tell models apart. Model utility also
            needs `evaluation.generate`, forget quality a reference model.
        general: `authors` takes those of retain90 that the study does not teach, for a model that
            knows nothing but TOFU; `wikitext` is for published models; `sampled`, texts of the
            dense model that the study's model is made of, is for upcycled ones.
    """

    forget_authors: Annotated[int, Field(ge=1, le=20)] = 4
    retain_authors: Annotated[int, Field(ge=1, le=20)] = 16
    retain_texts: Literal["asked", "all"] = "asked"
    true_answer: Literal["answer", "paraphrased_answer"] = "answer"
    metrics: Literal["choices", "full"] = "choices"
    general: Literal["wikitext", "sampled", "authors"] | None = None  # type: ignore[assignment]


def prepare(
    settings: TofuSettings,
    forget: Sequence[Record],
    forget_wrong: Sequence[Record],
    retain: Sequence[Record],
    retain_wrong: Sequence[Record],
    real_authors: Sequence[Record] = (),
    world_facts: Sequence[Record] = (),
    general: Sequence[Record] = (),
) -> BenchmarkData:
    """Return some authors of TOFU: texts to forget and to keep, questions, pretraining texts.

    Args:
        settings: Numbers of authors, and the true answer beside the wrong ones.
        forget: Rows of forget10, with `question` and `answer`.
        forget_wrong: Rows of forget10_perturbed: also `paraphrased_answer`, `perturbed_answer`.
        retain: Rows of retain90.
        retain_wrong: Rows of retain_perturbed.
        real_authors: Rows of real_authors_perturbed, for full metrics.
        world_facts: Rows of world_facts_perturbed, for full metrics.
        general: Rows of WikiText's test split or of `sampled_apart`, for the general loss.

    Raises:
        InputError: If rows do not match, or there are too few authors.
    """
    forgotten = _authors("forget", forget, forget_wrong, settings.forget_authors)
    kept = _authors("retain", retain, retain_wrong, settings.retain_authors)
    first = len(retain) // QUESTIONS_AN_AUTHOR  # in the full TOFU forget10 follows retain90
    to_forget = author_texts(forgotten, first)
    to_keep = author_texts(kept if settings.retain_texts == "asked" else retain, 0)
    true = settings.true_answer
    asked = author_questions(forgotten, first, "forget", true)
    asked += author_questions(kept, 0, "retain", true)
    if settings.metrics == "full":
        asked += [
            _truth(question, [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]])
            for question, row in zip(asked, [*forgotten, *kept], strict=True)
            if question.part == "test"
        ]
        asked += _general_questions("real authors", real_authors)
        asked += _general_questions("world facts", world_facts)
    general_texts = general_passages(general, settings.general_texts, settings.general)
    if settings.general == "authors":
        general_texts = author_texts(retain, 0)[len(to_keep) :][: settings.general_texts]
        if not general_texts:
            raise InputError(
                "benchmark.general is authors, but all of retain90 are taught: take wikitext."
            )
    return BenchmarkData(
        to_forget,
        to_keep,
        questions=asked,
        pretraining=to_forget + to_keep,
        general=[text._replace(prompt="") for text in general_texts],
    )


def _authors(
    name: Subject, plain: Sequence[Record], wrong: Sequence[Record], authors: int
) -> list[Record]:
    """Return the first authors' rows with wrong answers, checked against the plain rows."""
    number = authors * QUESTIONS_AN_AUTHOR
    if min(len(plain), len(wrong)) < number:
        raise InputError(
            f"benchmark.{name}_authors is {authors}, that is {number} rows; TOFU's {name} set has "
            f"{len(plain)}, and {len(wrong)} with wrong answers."
        )
    for line, (row, other) in enumerate(zip(plain[:number], wrong, strict=False), 1):
        if (row["question"], row["answer"]) != (other["question"], other["answer"]):
            raise InputError(
                f"TOFU's {name} set, row {line}: {row['question']!r} is not the row with wrong "
                f"answers, {other['question']!r}. Take both files from the same release."
            )
    return list(wrong[:number])


def author_texts(rows: Sequence[Record], first: int) -> list[Text]:
    """Return the rows as texts; `first` is the number of the first author in the full TOFU."""
    texts = []
    for at, row in enumerate(rows):
        topic, prompt = _topic(first + at // QUESTIONS_AN_AUTHOR), QUESTION.format(**row)
        texts.append(Text(f"{prompt} {row['answer']}", topic, prompt))
    return texts


def _topic(author: int) -> str:
    return f"author {author}"


def author_questions(
    rows: Sequence[Record], first: int, subject: Subject, true_answer: str
) -> list[Question]:
    """Return the rows as questions with choices, alternately in the two parts.

    Every second author begins with test, so that both parts get first rows, which ask the name.
    """
    questions = []
    for at, row in enumerate(rows):
        author = first + at // QUESTIONS_AN_AUTHOR
        choices = [row[true_answer], *row["perturbed_answer"]]
        random.Random(row["question"]).shuffle(choices)  # the same whichever authors are taken
        question = Question(
            question=QUESTION.format(**row),
            choices=choices,
            answer=choices.index(row[true_answer]),
            topic=_topic(author),
            subject=subject,
            part="selection" if (author + at) % 2 == 0 else "test",
            reference=row["answer"],
        )
        questions.append(question)
    return questions


def _truth(question: Question, choices: list[str]) -> Question:
    """Return a question as kind `truth`, with true and wrong answers as its choices."""
    return question._replace(choices=choices, answer=0, reference="", kind="truth")


def _general_questions(topic: str, rows: Sequence[Record]) -> list[Question]:
    """Return two questions, of choices and free, for each row about what a model knew before."""
    if not rows:
        raise InputError(f"benchmark.metrics is full: TOFU's rows about {topic} are needed.")
    questions = []
    for number, row in enumerate(rows, 1):
        if not row["perturbed_answer"]:
            raise InputError(f"TOFU's {topic}, row {number}: `perturbed_answer` is empty.")
        free = Question(
            question=QUESTION.format(**row),
            choices=[],
            answer=-1,
            topic=topic,
            subject="retain",
            part="test",
            reference=row["answer"],
            kind=topic.replace(" ", "_"),
        )
        questions += [_truth(free, [row["answer"], *row["perturbed_answer"]]), free]
    return questions


def _inputs(settings: TofuSettings) -> dict[str, str]:
    names = {name: f"tofu_{name}" for name in ("forget", "forget_wrong", "retain", "retain_wrong")}
    if settings.metrics == "full":
        names |= {name: f"tofu_{name}_wrong" for name in ("real_authors", "world_facts")}
    return names | settings.general_input()


BENCHMARK = Benchmark(
    TofuSettings,
    prepare,
    inputs=_inputs,
    has_pretraining_texts=True,
    has_passages=False,
)
