"""TOFU: authors who never lived, twenty questions each (Maini et al. 2024, arXiv 2401.06121).

Data: https://huggingface.co/datasets/locuslab/TOFU, revision 324592d, licence MIT. Rows come as
published, an author is twenty rows in order, and the files with wrong answers go row by row with
the plain ones (all of forget10, the first 400 rows of retain90): this is checked here.

1. A study may take a few authors only: the first ones of each set.
2. The texts are the questions with their answers, there are no others. So unlearning sees the text
   of every question it is tested on, as in TOFU itself; `selection` and `test` hold different
   questions about the same authors. Losses are of the answers alone, as in TOFU's data_module.py:
   the question is a text's prompt.
3. TOFU compares probabilities of true and wrong answers. Here they are the choices of one question,
   so that all benchmarks are scored alike; ROUGE-L recall is TOFU's own (see `answers`). With
   `metrics: full` TOFU's own comparison is made too: the test part's questions once more, as kind
   `truth`, whose choices are the answer, its paraphrase, and the wrong ones. It was checked against
   locuslab/tofu 8c49eee, see `truth` and `truth_ratios`.
4. Guessing is not exactly one in six, for choices differ in length and wording. Wrong answers are
   worded like the paraphrase: beside the answer that was learned (`true_answer: answer`) their form
   gives them away, and an untrained model with 512 tokens is right in .73 of the forget
   questions by `acc`. Beside the paraphrase a model that finds all tokens equally likely is right
   in .23 of them.
5. TOFU compares all questions of forget10 (the first 300 in its published runs). Here half of them
   choose the checkpoint, so 200 are compared, and forget quality is higher for the same difference.
6. Real authors and world facts have no paraphrase. Their topic says so (`truth_ratios.PLAIN_SETS`):
   choices are the answer and the wrong ones. They are all in the test part, once for their
   likelihoods and once for a free answer, of a kind of their own.
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
        forget_authors: Authors of forget10 to take, the first ones; at most 20.
        retain_authors: Authors of retain90 to take, the first ones; at most 20, since TOFU has
            wrong answers for no more.
        retain_texts: Which texts are kept, and learned before: those of the authors that are asked
            for, or of `all` 180 of retain90.
        true_answer: Which true answer stands beside the wrong ones: the one that was learned, or
            its paraphrase, which is worded like them.
        metrics: `choices` asks the choices only. `full` adds what forget quality and model utility
            are made of: likelihoods of true and wrong answers, real authors and world facts. That
            makes sense with all 20 authors to forget and a model that was large enough to know
            real authors; with fewer, forget quality has too few questions to tell models apart.
            Model utility also needs `evaluation.generate`, forget quality a reference model.
        general: `authors` takes those of retain90 that no model of the study was taught, for a
            model that knows nothing but TOFU; `wikitext` is for published ones, and `sampled`, what
            the dense model said that the study's model is made of, for upcycled ones.
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
    """Take some authors of TOFU: texts to forget and to keep, questions, pretraining texts.

    Args:
        settings: How many authors, and which true answer stands beside the wrong ones.
        forget: Rows of forget10, with `question` and `answer`.
        forget_wrong: Rows of forget10_perturbed: also `paraphrased_answer`, `perturbed_answer`.
        retain: Rows of retain90.
        retain_wrong: Rows of retain_perturbed.
        real_authors: Rows of real_authors_perturbed, for full metrics.
        world_facts: Rows of world_facts_perturbed, for full metrics.
        general: Rows of WikiText's test split or of `sampled_apart`, for the general loss.

    Raises:
        InputError: If rows do not go with each other, or there are fewer authors than asked for.
    """
    gone = _authors("forget", forget, forget_wrong, settings.forget_authors)
    kept = _authors("retain", retain, retain_wrong, settings.retain_authors)
    first = len(retain) // QUESTIONS_AN_AUTHOR  # in the full TOFU forget10 follows retain90
    to_forget = author_texts(gone, first)
    to_keep = author_texts(kept if settings.retain_texts == "asked" else retain, 0)
    true = settings.true_answer
    asked = author_questions(gone, first, "forget", true)
    asked += author_questions(kept, 0, "retain", true)
    if settings.metrics == "full":
        asked += [
            _truth(question, [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]])
            for question, row in zip(asked, [*gone, *kept], strict=True)
            if question.part == "test"
        ]
        asked += _general_questions("real authors", real_authors)
        asked += _general_questions("world facts", world_facts)
    untold = general_passages(general, settings.general_texts, settings.general)
    if settings.general == "authors":
        untold = author_texts(retain, 0)[len(to_keep) :][: settings.general_texts]
        if not untold:
            raise InputError(
                "benchmark.general is authors, but all of retain90 are taught: take wikitext."
            )
    return BenchmarkData(
        to_forget,
        to_keep,
        questions=asked,
        pretraining=to_forget + to_keep,
        general=[text._replace(prompt="") for text in untold],
    )


def _authors(
    name: Subject, plain: Sequence[Record], wrong: Sequence[Record], authors: int
) -> list[Record]:
    """Return the rows with wrong answers of the first authors, after a check of the plain rows."""
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
    """Return the rows as questions with choices.

    The parts take turns; every second author, whose first row asks the name, begins with test.
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
    """Return a question once more, with all that is true and wrong as its choices."""
    return question._replace(choices=choices, answer=0, reference="", kind="truth")


def _general_questions(topic: str, rows: Sequence[Record]) -> list[Question]:
    """Return two questions for each row about what a model knew before TOFU."""
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
