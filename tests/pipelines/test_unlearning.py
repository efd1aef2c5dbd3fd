"""What judges a model while a method trains."""

from typing import Any

import pytest

from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.loss import mean_nll
from seuf.pipelines.unlearning.nodes import judge_of


def question(number: int, part: str, subject: str, answer: int) -> dict[str, Any]:
    """Return a record of a question with two choices, of which the shorter is likelier."""
    return {
        "question": f"Question {number}: where is Oslo? Answer:",
        "choices": ["Oslo", "Oslo in the north of the south"],
        "answer": answer,
        "topic": "",
        "subject": subject,
        "part": part,
    }


QUESTIONS = [
    question(number, part, subject, answer)
    for part in ("selection", "test")
    for subject, answers in (("forget", [0, 0, 1]), ("retain", [0, 1]), ("unseen", [1, 0, 0, 0]))
    for number, answer in enumerate(answers)
]


def test_the_selection_questions_judge_and_the_test_questions_stand_beside(language_model):
    """The shorter choice is always taken: .67 of forget, .75 of unseen, .5 of what is kept."""
    judge = judge_of(language_model, QUESTIONS, [{"text": "Ada lives in Oslo."}], ScoringSettings())

    evaluation = judge(language_model.model)

    assert evaluation.forget_efficacy == pytest.approx(2 / 3)
    assert (evaluation.utility, evaluation.chance) == (0.75, 0.5)
    assert evaluation.beside == {
        "test_forget_efficacy": pytest.approx(2 / 3),
        "test_utility": 0.75,
        "test_chance": 0.5,
        "test_retain": 0.5,
        "general_loss": mean_nll(language_model, ["Ada lives in Oslo."]),
        "test_forget_right": "3:6",
        "test_utility_right": "4:7",
    }


def test_without_unseen_questions_utility_is_on_what_is_kept_and_general_texts_may_be_none(
    language_model,
):
    asked = [record for record in QUESTIONS if record["subject"] != "unseen"]

    evaluation = judge_of(language_model, asked, [], ScoringSettings())(language_model.model)

    assert evaluation.utility == 0.5
    assert "general_loss" not in evaluation.beside


def test_so_many_test_questions_of_each_subject_are_asked_on_the_path(language_model):
    judge = judge_of(language_model, QUESTIONS, [], ScoringSettings(path_questions=2))

    beside = judge(language_model.model).beside

    assert str(beside["test_forget_right"]).startswith("2:")
    assert str(beside["test_utility_right"]).startswith("2:")


def test_questions_that_do_not_count_are_not_among_those_asked_on_the_path(language_model):
    """Ten facts that stand beside take no place of the two that are asked of the subject."""
    beside = [q for q in QUESTIONS if (q["subject"], q["part"]) == ("unseen", "test")] * 3
    asked = [*[{**question, "kind": "related_facts"} for question in beside], *QUESTIONS]
    judge = judge_of(language_model, asked, [], ScoringSettings(path_questions=2))

    assert str(judge(language_model.model).beside["test_utility_right"]).startswith("2:")


def test_general_texts_are_thinned_out_evenly(language_model):
    """Of seven at most three: every third, which are numbers 0, 3 and 6."""
    texts = [f"Ada lives in {town}." for town in "Oslo Rome Bonn Paris Lima Kyoto Quito".split()]
    records = [{"text": text} for text in texts]
    judge = judge_of(language_model, QUESTIONS, records, ScoringSettings(path_texts=3))

    loss = judge(language_model.model).beside["general_loss"]

    assert loss == mean_nll(language_model, [texts[0], texts[3], texts[6]])
    assert loss != pytest.approx(mean_nll(language_model, texts), rel=1e-6)


def test_a_question_that_cannot_be_scored_is_refused_before_the_first_step(language_model):
    """It is asked at the end only, when all is trained: the path asks one of each subject."""
    without_tokens = {**question(0, "test", "forget", 0), "question": " "}
    settings = ScoringSettings(path_questions=2)

    with pytest.raises(InputError, match="no tokens of its own for '  Oslo' after ''"):
        judge_of(language_model, [*QUESTIONS, without_tokens], [], settings)
