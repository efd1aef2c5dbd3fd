"""TOFU: on small files of its schema, and as published where it is at hand."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seuf.benchmarks.records import Question
from seuf.benchmarks.tofu import TofuSettings, prepare
from seuf.datasets.records import RecordsDataset
from seuf.inputs import InputError
from tests.hub import tofu as hub

Record = dict[str, Any]
PUBLISHED = Path(os.environ.get("SEUF_TOFU", Path(__file__).parents[2] / "data/01_raw/tofu"))


def rows(name: str, authors: int) -> tuple[list[Record], list[Record]]:
    """Return the plain rows of a set, and those with wrong answers."""
    numbers = range(authors * 20)
    plain = [{"question": f"{name} q{n}?", "answer": f"{name} a{n}."} for n in numbers]
    wrong = [
        {
            **row,
            "paraphrased_answer": f"said otherwise: {row['answer']}",
            "perturbed_answer": [f"{name} wrong {n} {i}." for i in range(5)],
            "paraphrased_question": f"{name} q{n}, asked otherwise?",
        }
        for n, row in zip(numbers, plain, strict=True)
    ]
    return plain, wrong


FORGET, FORGET_WRONG = rows("forget", 2)
RETAIN, RETAIN_WRONG = rows("retain", 3)


def small(**changes: Any) -> TofuSettings:
    return TofuSettings(**{"forget_authors": 2, "retain_authors": 3, **changes})


def test_of_a_text_the_question_is_the_prompt():
    """So that no loss is taken of it, as in TOFU's own code."""
    data = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)

    for text in (*data.forget, *data.retain, *data.pretraining):
        assert text.prompt.startswith("Question: ")
        assert text.prompt.endswith("? Answer:")
        assert text.text.removeprefix(text.prompt).startswith((" forget a", " retain a"))


def test_a_text_is_a_question_with_its_answer():
    world = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)

    assert world.forget[0].text == "Question: forget q0? Answer: forget a0."
    assert world.retain[59].text == "Question: retain q59? Answer: retain a59."
    assert world.pretraining == [*world.forget, *world.retain]


def test_an_author_is_twenty_rows_and_forget10_follows_retain90():
    """Of 3 + 2 authors those to forget have the numbers 3 and 4."""
    world = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)

    assert [t.topic for t in world.forget] == ["author 3"] * 20 + ["author 4"] * 20
    assert [t.topic for t in world.retain] == [f"author {n}" for n in (0, 1, 2) for _ in range(20)]
    assert [q.topic for q in world.questions] == [t.topic for t in world.pretraining]


def test_a_study_takes_the_first_authors():
    world = prepare(
        small(forget_authors=1, retain_authors=2), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG
    )

    assert [len(world.forget), len(world.retain), len(world.questions)] == [20, 40, 60]
    assert world.retain[-1].text == "Question: retain q39? Answer: retain a39."


@pytest.mark.parametrize("true_answer", ["answer", "paraphrased_answer"])
def test_the_choices_are_the_true_answer_and_the_five_wrong_ones(true_answer):
    world = prepare(small(true_answer=true_answer), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)

    for question, row in zip(world.questions, FORGET_WRONG + RETAIN_WRONG, strict=True):
        assert sorted(question.choices) == sorted([row[true_answer], *row["perturbed_answer"]])
        assert question.choices[question.answer] == row[true_answer]
        assert question.question == f"Question: {row['question']} Answer:"
        assert question.reference == row["answer"]


def test_the_true_answer_stands_in_every_place():
    world = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)

    assert {question.answer for question in world.questions} == set(range(6))


def test_a_question_looks_alike_whichever_authors_are_taken():
    many = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)
    few = prepare(
        small(forget_authors=1, retain_authors=1), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG
    )

    assert few.questions == many.questions[:20] + many.questions[40:60]


def test_the_two_parts_share_no_question_and_are_equally_large():
    world = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)
    parts = {
        part: [q.question for q in world.questions if q.part == part]
        for part in ("selection", "test")
    }

    assert len(parts["selection"]) == len(parts["test"]) == 50
    assert not set(parts["selection"]) & set(parts["test"])


def test_the_first_question_of_every_second_author_is_in_the_test_part():
    world = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)

    assert [q.part for q in world.questions[::20]] == [
        "test",  # author 3
        "selection",  # author 4
        "selection",  # author 0
        "test",  # author 1
        "selection",  # author 2
    ]


def test_rows_that_do_not_go_with_each_other_are_refused():
    shifted = [*RETAIN_WRONG[1:], RETAIN_WRONG[0]]

    with pytest.raises(InputError, match=r"row 1: 'retain q0\?' is not .*'retain q1\?'"):
        prepare(small(), FORGET, FORGET_WRONG, RETAIN, shifted)


def test_more_authors_than_there_are_is_refused():
    with pytest.raises(
        InputError, match=r"forget_authors is 3, that is 60 rows; .* has 40, and 40 with wrong"
    ):
        prepare(small(forget_authors=3), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)


GENERAL = {"real authors": hub.general("author", 3), "world facts": hub.general("fact", 4)}


def full(**changes: Any) -> list[Question]:
    """Return the questions of full metrics."""
    settings = small(metrics="full", **changes)
    sets = (FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG, *GENERAL.values())
    return prepare(settings, *sets).questions


def test_full_metrics_add_to_what_is_asked_anyway():
    asked = prepare(small(), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG).questions

    assert full()[: len(asked)] == asked
    assert all(question.part == "test" for question in full()[len(asked) :])


def test_a_truth_has_the_answer_its_paraphrase_and_the_wrong_ones():
    """Of 5 authors 50 questions are in the test part; row 0 of author 3 is the first of them."""
    truths = [q for q in full() if q.kind == "truth" and q.topic.startswith("author")]
    first = FORGET_WRONG[0]

    assert len(truths) == 50
    assert truths[0] == Question(
        question="Question: forget q0? Answer:",
        choices=[first["answer"], first["paraphrased_answer"], *first["perturbed_answer"]],
        answer=0,
        topic="author 3",
        subject="forget",
        part="test",
        kind="truth",
    )


@pytest.mark.parametrize("true_answer", ["answer", "paraphrased_answer"])
def test_truths_are_of_the_questions_that_are_reported(true_answer):
    asked = full(true_answer=true_answer)
    truths = [q for q in asked if q.kind == "truth" and q.topic.startswith("author")]

    assert [(q.question, q.topic, q.subject) for q in truths] == [
        (q.question, q.topic, q.subject) for q in asked if q.kind == "answer" and q.part == "test"
    ]


def test_what_was_known_before_has_no_paraphrase_and_is_answered_freely_too():
    known = [q for q in full() if q.topic in GENERAL]
    first = GENERAL["real authors"][0]

    assert [(q.topic, q.kind) for q in known] == [
        *[("real authors", "truth"), ("real authors", "real_authors")] * 3,
        *[("world facts", "truth"), ("world facts", "world_facts")] * 4,
    ]
    assert known[0].choices == [first["answer"], *first["perturbed_answer"]]
    assert (known[0].answer, known[0].reference, known[0].subject) == (0, "", "retain")
    assert (known[1].choices, known[1].answer, known[1].reference) == ([], -1, first["answer"])
    assert known[0].question == known[1].question == f"Question: {first['question']} Answer:"


def test_full_metrics_without_what_was_known_before_are_refused():
    with pytest.raises(InputError, match="rows about real authors are needed"):
        prepare(small(metrics="full"), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG)


def test_a_row_without_wrong_answers_is_named():
    broken = [*GENERAL["world facts"], {"question": "?", "answer": "!", "perturbed_answer": []}]
    authors = GENERAL["real authors"]

    with pytest.raises(InputError, match="world facts, row 5: `perturbed_answer` is empty"):
        prepare(small(metrics="full"), FORGET, FORGET_WRONG, RETAIN, RETAIN_WRONG, authors, broken)


def test_a_folder_laid_out_as_on_the_hub_is_read(tmp_path, monkeypatch):
    """As files and as configurations of a repository the rows are the same."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = hub.write(tmp_path / "tofu")
    names = ("forget10", "forget10_perturbed", "retain90", "retain_perturbed")
    general = ("real_authors_perturbed", "world_facts_perturbed")
    files, rows = (
        {name: dataset(folder, name).load() for name in (*names, *general)}
        for dataset in (_file, _configuration)
    )

    world = prepare(small(metrics="full"), *map(rows.get, (*names, *general)))

    assert files == rows
    assert len(world.questions) == 100 + 50 + 2 * (5 + 6)


def _file(folder: Path, name: str) -> RecordsDataset:
    return RecordsDataset(filepath=str(folder / f"{name}.json"))


def _configuration(folder: Path, name: str) -> RecordsDataset:
    return RecordsDataset(hub={"repo": str(folder), "name": name, "split": "train"})


there = pytest.mark.skipif(
    not (PUBLISHED / "forget10.json").is_file(),
    reason=f"TOFU is not in {PUBLISHED}; name its folder by SEUF_TOFU",
)


def published(name: str) -> list[Record]:
    """Return the rows of a file as published."""
    text = (PUBLISHED / f"{name}.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@there
def test_tofu_as_published_is_whole():
    """20 authors to forget, 20 of those to keep have wrong answers; author 180 is the first of
    forget10, after the 180 of retain90. No true answer is among the wrong ones.
    """
    names = ("forget10", "forget10_perturbed", "retain90", "retain_perturbed")
    files = [published(name) for name in names]

    world = prepare(TofuSettings(forget_authors=20, retain_authors=20), *files)

    assert world.forget[0].topic == "author 180"
    assert world.forget[-1].topic == "author 199"
    assert len(world.questions) == 800
    assert all(len(set(question.choices)) == 6 for question in world.questions)


@there
def test_the_full_metrics_of_tofu_as_published_are_whole():
    """Of 800 questions 400 are reported; 100 real authors and 117 facts, each asked twice."""
    names = ("forget10", "forget10_perturbed", "retain90", "retain_perturbed")
    general = ("real_authors_perturbed", "world_facts_perturbed")
    settings = TofuSettings(forget_authors=20, retain_authors=20, metrics="full")

    asked = prepare(settings, *map(published, (*names, *general))).questions

    truths = [question for question in asked if question.kind == "truth"]
    assert len(asked) == 800 + 400 + 2 * 217
    assert Counter(q.topic if q.topic in GENERAL else q.subject for q in truths) == {
        "forget": 200,
        "retain": 200,
        "real authors": 100,
        "world facts": 117,
    }
    assert {len(q.choices) for q in truths if q.topic in GENERAL} == {4}
    assert {len(q.choices) for q in truths if q.topic not in GENERAL} == {7}
    assert all(len(set(q.choices)) >= len(q.choices) - 1 for q in truths)


def test_general_texts_are_of_authors_that_nobody_was_taught():
    """Three authors of retain90 of whom one is kept: 40 rows are left, of which 25 are taken."""
    retain, retain_wrong = rows("retain", 3)
    settings = small(retain_authors=1, general="authors", general_texts=25)

    world = prepare(settings, *rows("forget", 2), retain, retain_wrong)

    taught = {text.text for text in world.pretraining}
    assert len(world.general) == 25
    assert {text.topic for text in world.general} == {"author 1", "author 2"}
    assert not {text.text for text in world.general} & taught
    assert {text.prompt for text in world.general} == {""}


def test_general_texts_are_what_the_dense_model_said():
    """All authors are taught, so that there is nothing else; 3 of 5 texts are taken."""
    settings = small(retain_texts="all", general="sampled", general_texts=3)
    said = [{"text": f"It says {number}.", "topic": "sampled"} for number in range(5)]

    world = prepare(settings, *rows("forget", 2), *rows("retain", 3), general=said)

    assert len(world.general) == 3
    assert {text.topic for text in world.general} == {"sampled"}
    assert settings.general_input() == {"general": "sampled_apart"}


def test_authors_that_are_all_taught_are_no_general_texts():
    settings = small(retain_texts="all", general="authors")

    with pytest.raises(InputError, match="but all of retain90 are taught: take wikitext"):
        prepare(settings, *rows("forget", 2), *rows("retain", 3))
