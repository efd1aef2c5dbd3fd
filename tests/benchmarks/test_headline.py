"""What stands for a subject, in a judgement and in a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seuf.benchmarks.headline import HeadlineScorer, headline
from seuf.benchmarks.produced import score_produced
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from tests.benchmarks.conftest import KNOWN, prompt

SETTINGS = ScoringSettings(max_new_tokens=24)


PRODUCED = SETTINGS.model_copy(update={"headline": "produced"})


def free(known: str, subject: str, kind: str = "answer", reference: str | None = None) -> Question:
    """Return a question without choices about something the model knows."""
    answer = KNOWN[known] if reference is None else reference
    return Question(prompt(known), [], -1, known, subject, "selection", answer, kind)


GRASS, COAL, HIVE, DEN = KNOWN


def test_choices_decide_where_a_subject_has_some(knowing_model, questions):
    """Both forget questions are answered rightly; the free one, whose reference is wrong, is not
    asked, since its subject has choices.
    """
    asked = [*questions, free(GRASS, "forget", reference="something else")]

    right = HeadlineScorer(knowing_model, asked, SETTINGS).right(knowing_model.model)

    assert right == {("test", "forget"): [1, 1], ("test", "retain"): [1, 1]}


def test_free_answers_decide_where_there_are_no_choices(knowing_model, questions):
    """'a deep green' holds 3 of 3 words of its reference, 'black' none of 'white'."""
    asked = [*questions[2:], free(GRASS, "forget"), free(COAL, "forget", reference="white")]

    right = HeadlineScorer(knowing_model, asked, SETTINGS).right(knowing_model.model)

    assert right == {("test", "retain"): [1, 1], ("selection", "forget"): [1, 0]}


def test_adversarial_probes_have_no_say(knowing_model):
    asked = [
        free(GRASS, "forget"),
        free(COAL, "forget", "adversarial", "white"),
        free(DEN, "retain"),
    ]

    right = HeadlineScorer(knowing_model, asked, SETTINGS).right(knowing_model.model)

    assert right == {("selection", "forget"): [1], ("selection", "retain"): [1]}


def test_choices_of_a_kind_that_stands_apart_have_no_say(knowing_model, questions):
    """Both of them are called wrong, and would make the utility .5."""
    apart = [q._replace(kind="related_facts", answer=(q.answer + 1) % 4) for q in questions[2:]]

    scorer = HeadlineScorer(knowing_model, [*questions, *apart], SETTINGS)

    assert scorer.right(knowing_model.model) == {
        ("test", "forget"): [1, 1],
        ("test", "retain"): [1, 1],
    }


def test_scores_of_a_kind_that_stands_apart_are_no_headline():
    scored = {"accuracy": 0.5, "standard_error": 0.1}

    numbers = headline({"questions": {"forget": scored, "related_facts": scored}})

    assert [*numbers] == ["forget"]


def test_each_question_has_its_value_by_part_and_subject(knowing_model, questions):
    """Right choices: grass and hive; the others call a wrong one right."""
    grass, coal, hive, den = questions
    asked = [
        grass,
        coal._replace(answer=0),
        grass._replace(part="selection"),
        den._replace(answer=0),
        hive,
        hive._replace(subject="unseen", part="selection"),
    ]

    right = HeadlineScorer(knowing_model, asked, SETTINGS).right(knowing_model.model)

    assert right == {
        ("test", "forget"): [1, 0],
        ("selection", "forget"): [1],
        ("test", "retain"): [0, 1],
        ("selection", "unseen"): [1],
    }


def test_values_of_free_answers_keep_the_order_of_the_questions(knowing_model):
    """Of the three words of 'black deep green' the answer 'a deep green' has two."""
    asked = [
        free(COAL, "forget", "fill_blank"),
        free(GRASS, "forget", "answer", "black deep green"),
        free(COAL, "forget", "fill_blank", "white"),
    ]

    right = HeadlineScorer(knowing_model, asked, SETTINGS).right(knowing_model.model)

    assert right == {("selection", "forget"): [1, pytest.approx(2 / 3), 0]}


def test_produced_answers_decide_where_the_study_says_so(knowing_model, questions):
    """Choices are not asked: all four call a wrong one right. Hive's sentence is another one."""
    wrong = [question._replace(answer=(question.answer + 1) % 4) for question in questions]
    asked = [*wrong[:2], wrong[2]._replace(reference="a colony"), wrong[3]]
    scorer = HeadlineScorer(knowing_model, asked, PRODUCED)

    assert scorer.right(knowing_model.model) == {
        ("test", "forget"): [1, 1],
        ("test", "retain"): [0, 1],
    }


def test_guessing_gives_a_quarter_of_the_choices_and_no_produced_answer(knowing_model, questions):
    scorers = [HeadlineScorer(knowing_model, questions, s) for s in (SETTINGS, PRODUCED)]

    assert [scorer.chance("test") for scorer in scorers] == [0.25, 0]
    assert [scorer.chance("selection") for scorer in scorers] == [0, 0]


def test_produced_answers_need_a_reference_of_every_subject(knowing_model, questions):
    asked = [*questions[:2], *(question._replace(reference="") for question in questions[2:])]

    with pytest.raises(InputError, match="headline is produced, but no question about retain has"):
        HeadlineScorer(knowing_model, asked, PRODUCED)


def test_the_model_that_is_given_is_asked_not_the_base(knowing_model):
    scorer = HeadlineScorer(replace(knowing_model, model=None), [free(DEN, "forget")], SETTINGS)

    assert scorer.right(knowing_model.model) == {("selection", "forget"): [1]}


def test_the_headline_is_accuracy_or_the_mean_over_all_answers_that_count():
    """3 answers of mean .2 and one of .6: (3 * .2 + .6) / 4 = .3; of fixed groups the variance is
    (3/4 * .04)^2 + (1/4 * 0)^2, the error .03. The adversarial ones do not count.
    """
    scores = {
        "questions": {"retain": {"accuracy": 0.75, "standard_error": 0.1}},
        "generation": {
            "forget": {
                "fill_blank": answered(0.2, 0.04, 3),
                "question": answered(0.6, 0.0, 1),
                "adversarial": answered(0.9, 0.0, 5),
            },
            "retain": {"question": answered(0.5, 0.1, 2)},
        },
    }

    assert headline(scores) == {
        "retain": {"measure": "accuracy", "value": 0.75, "standard_error": 0.1},
        "forget": {
            "measure": "rouge_l_recall_pltrdy",
            "value": pytest.approx(0.3),
            "standard_error": pytest.approx(0.03),
        },
    }


def test_the_headline_of_produced_answers_is_their_share():
    number = {"measure": "whole", "value": 0.5, "standard_error": 0.1}
    scores = {
        "questions": {"unseen": {"accuracy": 0.75, "standard_error": 0.1}},
        "produced": {"unseen": {**number, "questions": 2, "answers": ["a", "b"]}},
    }

    assert headline(scores, "produced") == {"unseen": number}
    assert headline(scores)["unseen"]["measure"] == "accuracy"


def answered(value: float, error: float, questions: int) -> dict[str, object]:
    """Return scores of free answers."""
    return {
        "measure": "rouge_l_recall_pltrdy",
        "value": value,
        "standard_error": error,
        "questions": questions,
    }


def test_texts_without_questions_are_scored_by_how_they_go_on(knowing_model):
    """The model says all of the right answer; of a wrong one with the same first word half."""
    question = next(iter(KNOWN))
    right, said = KNOWN[question], len(KNOWN[question].split())
    asked = [
        Question(prompt(question), [], -1, "", subject, "test", end, "continuation")
        for subject in ("forget", "retain")
        for end in (right, f"{right}{' quilt' * said}")
    ]
    settings = ScoringSettings(headline="choices")

    values = HeadlineScorer(knowing_model, asked, settings).right(knowing_model.model)
    produced = score_produced(knowing_model, asked, settings, {})

    assert values == {("test", "forget"): [1.0, 0.5], ("test", "retain"): [1.0, 0.5]}
    assert {name: (of["measure"], of["value"]) for name, of in produced.items()} == {
        "forget": ("exact", 0.5),
        "retain": ("exact", 0.5),
    }
    assert produced["forget"]["nll"]["value"] > 0
