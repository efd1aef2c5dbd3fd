"""MMLU: which split selects, which is reported."""

from __future__ import annotations

from collections import Counter

import pytest

from seuf.benchmarks.choices import macro_accuracy
from seuf.benchmarks.mmlu import mmlu_questions
from seuf.inputs import InputError
from tests.hub import mmlu

VALIDATION, TEST = mmlu.questions("validation", 0.5), mmlu.questions("test")


def test_validation_selects_and_the_whole_test_split_is_reported():
    asked = mmlu_questions(VALIDATION, TEST, selection=6)

    parts = [(q.part, "validation book" in q.question) for q in asked]
    assert parts == [("selection", True)] * 6 + [("test", False)] * 36
    assert {q.subject for q in asked} == {"retain"}
    assert [q.topic for q in asked[6:]] == [row["subject"] for row in TEST]
    assert [q.answer for q in asked[6:]] == [row["answer"] for row in TEST]


def test_subjects_give_questions_by_their_size():
    """Half of 8, 6 and 4 select; a quarter of 16, 12 and 8 are reported: 4, 3 and 2."""
    asked = mmlu_questions(VALIDATION, TEST, selection=9, reported=9)

    for part, numbers in (("selection", (4, 3, 2)), ("test", (4, 3, 2))):
        found = Counter(q.topic for q in asked if q.part == part)
        assert found == dict(zip(mmlu.SUBJECTS, numbers, strict=True))


def test_a_prompt_names_its_subject():
    asked = mmlu_questions(VALIDATION, TEST, selection=2)

    assert asked[-1].question.startswith(
        "The following are multiple choice questions (with answers) about high school us history."
        "\n\nIn the test book of high_school_us_history, what is on page 7?\nA. a hat of 7\n"
    )


def test_a_question_of_both_splits_does_not_select():
    """All 18 of validation select but the one that the test split has too."""
    asked = mmlu_questions(VALIDATION, [*TEST, VALIDATION[0]], selection=18)

    wordings = [q.question for q in asked if q.part == "selection"]
    assert len(wordings) == 17
    assert asked[-1].part == "test"
    assert asked[-1].question not in wordings


def test_as_many_select_as_there_are():
    assert len(mmlu_questions(VALIDATION, TEST, selection=200)) == 18 + 36


def test_more_questions_than_there_are_cannot_be_reported():
    with pytest.raises(InputError, match="MMLU's test split gives 36 questions, 50 are needed"):
        mmlu_questions(VALIDATION, TEST, selection=2, reported=50)


def test_two_questions_have_to_select():
    with pytest.raises(InputError, match="MMLU's validation split gives 1 questions, 2 are neede"):
        mmlu_questions(VALIDATION[:1], TEST, selection=2)


def test_a_subject_that_lm_eval_does_not_know_is_named():
    with pytest.raises(InputError, match="lm-eval has no task 'mmlu_magic'"):
        mmlu_questions(VALIDATION, [{**TEST[0], "subject": "magic"}], selection=2)


def test_a_row_that_cannot_be_asked_is_named():
    with pytest.raises(InputError, match="MMLU's test split, row 2: `answer` must be a position"):
        mmlu_questions(VALIDATION, [TEST[0], {**TEST[1], "answer": 4}], selection=2)


def test_the_macro_average_counts_each_subject_the_same():
    """All 16 of anatomy right, none of the 12 and 8 others: 1/3, where the mean is 16/36."""
    asked = mmlu_questions(VALIDATION, TEST, selection=2)[2:]
    right = [question.topic == "anatomy" for question in asked]

    answers = [q.answer if hit else -1 for q, hit in zip(asked, right, strict=True)]
    assert macro_accuracy(asked, answers) == pytest.approx(1 / 3)
