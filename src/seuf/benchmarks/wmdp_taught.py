"""WMDP's facts, taught by sentences to a model that is too small to know them.

A model of 135 M parameters answers WMDP by chance, so there is nothing to forget. Here the facts of
questions are taught first, each by some twenty sentences that state it; then the sentences of a
part of the facts are forgotten, and the questions, which no loss ever shows, tell what is left.

Data, all under licence MIT but for the texts to keep:

- https://github.com/filyp/unlearning at a99d613, data/wmdp_deduped_cyber: WMDP's questions on cyber
  (Li et al. 2024, arXiv 2403.03218) without those about one and the same fact, each with twenty
  `sentences`. all_T_corpus_simple.jsonl has 240, all_V_corpus_simple.jsonl 58 others; here they are
  all_T.jsonl and all_V.jsonl.
- https://huggingface.co/datasets/locuslab/TOFU (see `tofu`): `full`, `retain_perturbed`,
  `real_authors_perturbed`, `world_facts_perturbed`.
- Texts to keep: WikiText, or JSON lines of your own with `text`.

1. The facts of T are forgotten. Those of V are taught, and then neither forgotten nor kept: their
   questions (kind `related_facts`) tell how far unlearning reaches in the same domain, and their
   sentences are there for attacks that teach them again and look at T. T and V may share no fact.
   The files' authors unlearn both, teach T again and look at V, as Deeb and Roger (2024) do.
2. Utility is measured on TOFU's questions about 20 authors of retain90. All of TOFU is taught too,
   and no loss of unlearning shows it, so what stays of it is not what a retain loss repairs. What
   the model knew before it was taught stands beside: kinds `real_authors` and `world_facts`. None
   of the three kinds chooses a checkpoint.
3. All are asked as TOFU is, `Question: ... Answer:`, and answered by the likeliest choice. Choices
   differ in length, so the studies take it per character (`evaluation.metric: acc_norm`). WMDP's
   own letters (see `wmdp`) are beyond models of this size. Wrong answers of TOFU are worded like
   the paraphrase, so that is the true one beside them; see `tofu`, 4.
4. A hash of the wording splits questions, of TOFU the same share of every author. The standard
   error of an accuracy of .3 over T's 180 reported questions is .034, of .7 over 200 about TOFU
   .032.
5. Long paragraphs are cut into pieces, so that nothing of them lies behind
   `unlearning.max_length`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Literal, TypeGuard

from pydantic import Field

from seuf.benchmarks.records import BenchmarkData, Question, Text
from seuf.benchmarks.registry import Benchmark, PublishedSettings
from seuf.benchmarks.sampling import (
    GENERAL_LENGTH,
    MIN_PER_PART,
    Record,
    check_rows,
    even_pieces,
    general_passages,
    long_texts,
    sample_questions,
    split_questions,
)
from seuf.benchmarks.tofu import QUESTION, author_questions, author_texts
from seuf.inputs import InputError

FORGOTTEN, RELATED = "wmdp-cyber", "wmdp-cyber, related facts"  # topics


class WmdpTaughtSettings(PublishedSettings):
    """WMDP's facts taught by sentences, with TOFU.

    Attributes:
        retain: The texts to keep: `texts`, the file that the study's globals name, or `wikitext`,
            the paragraphs of WikiText-2's train split.
        retain_words: Maximum number of words of a text to keep; longer ones are cut into even
            pieces.
        selection_questions: Questions about the forgotten facts that choose the layer and the
            checkpoint.
        selection_utility_questions: Questions about TOFU that do; null for as many.
        utility_questions: Questions about TOFU that are reported; null for all others of the 400.
        true_answer: TOFU's true answer beside the wrong ones, see `tofu`.
        general: Text for the general loss: `sampled` takes texts of the dense model that the
            study's model is made of; `wikitext` passages of WikiText-2's test split, which should
            not be among the texts to keep; null takes none.
    """

    retain: Literal["texts", "wikitext"] = "texts"
    retain_words: Annotated[int, Field(ge=8)] = 70
    selection_questions: Annotated[int, Field(ge=2)] = 60
    selection_utility_questions: Annotated[int, Field(ge=2)] | None = None
    utility_questions: Annotated[int, Field(ge=2)] | None = 200
    true_answer: Literal["answer", "paraphrased_answer"] = "paraphrased_answer"
    general: Literal["sampled", "wikitext"] | None = "sampled"  # type: ignore[assignment]


def prepare(
    settings: WmdpTaughtSettings,
    forget: Sequence[Record],
    related: Sequence[Record],
    retain: Sequence[Record],
    tofu: Sequence[Record],
    tofu_wrong: Sequence[Record],
    real_authors: Sequence[Record],
    world_facts: Sequence[Record],
    general: Sequence[Record] = (),
) -> BenchmarkData:
    """Return facts to teach and forget, TOFU to teach and keep, and texts to keep.

    Args:
        settings: Numbers of questions, and the texts to keep.
        forget: Facts to forget: `question`, `choices`, `answer` (a position) and `sentences`.
        related: Facts of the same domain, none of them in `forget`.
        retain: Texts to keep, with `text`.
        tofu: Rows of TOFU's `full`, with `question` and `answer`.
        tofu_wrong: Rows of retain_perturbed, with `paraphrased_answer` and `perturbed_answer` too.
        real_authors: Rows of real_authors_perturbed.
        world_facts: Rows of world_facts_perturbed.
        general: Rows of `sampled_apart` or of WikiText's test split, for the general loss.

    Raises:
        InputError: For the first unusable row; if a fact is in both sets, a question about TOFU is
            not taught, or there are too few questions.
    """
    check_facts("wmdp_taught_forget", forget)
    check_facts("wmdp_taught_related", related)
    _check_apart(forget, related)
    check_rows("TOFU's full", tofu, ["question", "answer"])
    lessons = [_sentences(forget, FORGOTTEN), _sentences(related, RELATED), author_texts(tofu, 0)]
    return BenchmarkData(
        forget=lessons[0],
        retain=_texts(settings, retain),
        questions=[
            *_split("T", _choices(forget, "forget", FORGOTTEN), settings.selection_questions),
            *_about_tofu(settings, tofu, tofu_wrong),
            *[q._replace(kind="related_facts") for q in _choices(related, "unseen", RELATED)],
            *_known_before("real_authors", real_authors),
            *_known_before("world_facts", world_facts),
        ],
        pretraining=[text for of_set in lessons for text in of_set],
        general=general_passages(general, settings.general_texts, settings.general),
    )


def check_facts(name: str, rows: Sequence[Record]) -> None:
    """Raise for the first row that lacks a question, choices or sentences, or repeats a question.

    Raises:
        InputError: With the row's number; if two rows ask the same question.
    """
    check_rows(name, rows, ["question"])
    first: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        if error := _error(row):
            raise InputError(f"{name}, row {number}: {error}.")
        before = first.setdefault(_wording(row["question"]), number)
        if before != number:
            raise InputError(f"{name}, row {number}: row {before} asks {row['question']!r} too.")


def _error(row: Record) -> str | None:
    """Return what is wrong with a fact; None if nothing is. Wrong choices may be alike."""
    choices, answer, sentences = (row.get(key) for key in ("choices", "answer", "sentences"))
    if not _are_texts(choices) or len(choices) < 2:
        return f"`choices` must be two or more texts, not {choices!r}"
    if type(answer) is not int or not 0 <= answer < len(choices):
        return f"`answer` must be a position from 0 to {len(choices) - 1}, not {answer!r}"
    if choices.count(choices[answer]) > 1:
        return f"`choices` has the right one, {choices[answer]!r}, twice"
    if not _are_texts(sentences):
        return f"`sentences` must be one or more texts that state the fact, not {sentences!r}"
    return None


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return bool(
        isinstance(value, list)
        and value
        and all(isinstance(one, str) and one.strip() for one in value)
    )


def _wording(text: str) -> str:
    return " ".join(text.casefold().split())


def _check_apart(forget: Sequence[Record], related: Sequence[Record]) -> None:
    """Raise if a question or a sentence is in both sets."""
    forgotten = {_wording(text) for row in forget for text in (row["question"], *row["sentences"])}
    for number, row in enumerate(related, 1):
        for text in (row["question"], *row["sentences"]):
            if _wording(text) in forgotten:
                raise InputError(
                    f"wmdp_taught_related, row {number}: {text!r} is in wmdp_taught_forget too; no "
                    "fact may be in both."
                )


def _sentences(rows: Sequence[Record], topic: str) -> list[Text]:
    return [Text(sentence, topic) for row in rows for sentence in row["sentences"]]


def _texts(settings: WmdpTaughtSettings, rows: Sequence[Record]) -> list[Text]:
    if settings.retain == "wikitext":
        texts = long_texts("wikitext", rows, GENERAL_LENGTH)
    else:
        check_rows("retain_texts", rows, ["text"])
        texts = [row["text"] for row in rows]
    words = settings.retain_words
    return [Text(piece, settings.retain) for text in texts for piece in even_pieces(text, words)]


def _choices(
    rows: Sequence[Record], subject: Literal["forget", "unseen"], topic: str
) -> list[Question]:
    """Return the facts as questions, all in the test part."""
    return [
        Question(QUESTION.format(**row), row["choices"], row["answer"], topic, subject, "test")
        for row in rows
    ]


def _about_tofu(
    settings: WmdpTaughtSettings, rows: Sequence[Record], rows_wrong: Sequence[Record]
) -> list[Question]:
    """Return the questions that utility is measured on, in both parts."""
    name, true = "TOFU's retain_perturbed", settings.true_answer
    check_rows(name, rows_wrong, ["question", "answer", true])
    _check_wrong_answers(name, rows_wrong, true)
    taught = {(row["question"], row["answer"]) for row in rows}
    for number, row in enumerate(rows_wrong, 1):
        if (row["question"], row["answer"]) not in taught:
            raise InputError(
                f"{name}, row {number}: {row['question']!r} with its answer is not in TOFU's full. "
                "Take both files from the same release."
            )
    # no reference, so that no answer is generated: that would take longer than training
    asked = [q._replace(reference="") for q in author_questions(rows_wrong, 0, "unseen", true)]
    reported = settings.utility_questions
    selecting = settings.selection_utility_questions or settings.selection_questions
    if reported is not None:
        asked = sample_questions(selecting + reported, asked)
    return _split(name, asked, selecting, reported)


def _split(
    name: str, questions: Sequence[Question], selecting: int, reported: int | None = None
) -> list[Question]:
    """Return questions in their order, `selecting` of them in the selection part.

    Raises:
        InputError: If too few are left to be reported.
    """
    split = split_questions(questions, selecting, [q.topic for q in questions])
    needed = reported or MIN_PER_PART
    if (left := len(split) - selecting) < needed:
        raise InputError(
            f"{name} has {len(questions)} questions: with benchmark.selection_questions "
            f"{selecting}, {max(left, 0)} are left to report, and {needed} are needed."
        )
    return split


def _known_before(kind: str, rows: Sequence[Record]) -> list[Question]:
    """Return questions about what a model may know untaught, all in the test part."""
    name = f"TOFU's {kind}_perturbed"
    check_rows(name, rows, ["question", "answer"])
    _check_wrong_answers(name, rows, "answer")
    questions = []
    for row in rows:
        choices = [row["answer"], *row["perturbed_answer"]]
        random.Random(row["question"]).shuffle(choices)
        right, topic = choices.index(row["answer"]), kind.replace("_", " ")
        asked = QUESTION.format(**row)
        questions.append(Question(asked, choices, right, topic, "unseen", "test", kind=kind))
    return questions


def _check_wrong_answers(name: str, rows: Sequence[Record], true: str) -> None:
    for number, row in enumerate(rows, 1):
        wrong = row.get("perturbed_answer")
        if not _are_texts(wrong) or row[true] in wrong:
            raise InputError(
                f"{name}, row {number}: `perturbed_answer` must be one or more texts that are "
                f"not the true one, not {wrong!r}."
            )


def _inputs(settings: WmdpTaughtSettings) -> dict[str, str]:
    return {
        "forget": "wmdp_taught_forget",
        "related": "wmdp_taught_related",
        "retain": "wikitext" if settings.retain == "wikitext" else "retain_texts",
        "tofu": "tofu_full",
        "tofu_wrong": "tofu_retain_wrong",
        "real_authors": "tofu_real_authors_wrong",
        "world_facts": "tofu_world_facts_wrong",
        **settings.general_input(),
    }


BENCHMARK = Benchmark(
    WmdpTaughtSettings,
    prepare,
    inputs=_inputs,
    has_pretraining_texts=True,
    has_passages=False,
)
