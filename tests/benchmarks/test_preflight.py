"""What is told of the questions before anything is trained, and what stops a study."""

from __future__ import annotations

from typing import Any

import pytest

from seuf.benchmarks.preflight import (
    PreflightSettings,
    ask_original,
    check_fit,
    doubts_of,
    tokens_at_once,
)
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError

SETTINGS = ScoringSettings(max_length=512)


def question(subject: str = "forget", part: str = "test", **changes: Any) -> Question:
    """Return a question of which the shorter choice, the right one, is likelier."""
    plain = Question(
        "Where is Oslo?", ["Oslo", "Oslo in the north of the south"], 0, "", subject, part
    )
    return plain._replace(**changes)


def row(value: float, subject: str, part: str = "test", **changes: Any) -> dict[str, Any]:
    """Return what 100 questions with four choices tell."""
    plain = {"questions": 100, "value": value, "measure": "accuracy", "chance": 0.25}
    return {"subject": subject, "part": part, **plain, **changes}


def test_the_original_answers_by_subject_and_part(language_model):
    """One of two forget questions is right in the test part; guessing gives 1/2."""
    asked = [question(), question(answer=1), question(part="selection"), question("retain")]

    rows = {
        (one["subject"], one["part"]): one for one in ask_original(language_model, asked, SETTINGS)
    }

    assert rows["forget", "test"] == row(0.5, "forget", questions=2, chance=0.5)
    assert rows["forget", "selection"]["questions"] == 1
    assert rows["retain", "test"]["value"] == 1


def test_what_the_model_does_not_know_stops_a_study():
    """Two standard errors of guessing on 200 questions are 2 sqrt(.25 .75 / 200) = .061."""
    known = [row(0.9, "retain"), row(0.9, "retain", "selection")]
    guessed = [row(0.30, "forget"), row(0.32, "forget", "selection"), *known]
    above = [row(0.32, "forget"), row(0.32, "forget", "selection"), *known]

    assert doubts_of(above, PreflightSettings()) == []
    with pytest.raises(InputError) as stopped:
        doubts_of(guessed, PreflightSettings())
    assert str(stopped.value) == (
        "The model does not know what is to be forgotten: it scores 0.310 on 200 questions, "
        "guessing gives 0.250. Bring what the model knows and more questions, or set "
        "preflight.strict to false."
    )
    assert len(doubts_of(guessed, PreflightSettings(strict=False))) == 1


def test_free_answers_of_which_none_is_right_stop_it_too():
    of_free = {"measure": "exact", "chance": 0.0}
    none = [row(0.0, "forget", **of_free), row(0.5, "retain", **of_free)]

    with pytest.raises(InputError, match=r"scores 0\.000 on 100 questions, the answer to"):
        doubts_of(none, PreflightSettings())


def test_free_answers_are_held_against_those_of_the_next_question(language_model):
    """The next question's answer has 2, 1 and 0 of the three words: (2 + 1 + 0) / 9."""
    said = ["lives in Rome", "lives in Bergen", "works on Bergen"]
    asked = [question(choices=[], answer=-1, reference=reference) for reference in said]

    (told,) = ask_original(language_model, asked, ScoringSettings(max_new_tokens=8))

    assert (told["measure"], told["chance"]) == ("rouge_l_recall", pytest.approx(3 / 9))


def test_a_utility_that_is_not_known_is_told_and_stops_nothing():
    """Where there are unseen questions utility is measured on these."""
    rows = [row(0.9, "forget"), row(0.9, "retain"), row(0.25, "unseen")]

    (told,) = doubts_of(rows, PreflightSettings())

    assert told.startswith("The model does not know what neither set shows: it scores 0.250 on 100")


def test_too_few_questions_stop_a_study():
    rows = [row(0.9, "forget"), row(1.0, "retain", "selection", questions=9)]

    with pytest.raises(
        InputError, match="Only 9 questions ask for what must stay in the selection"
    ):
        doubts_of(rows, PreflightSettings())
    assert doubts_of(rows, PreflightSettings(fewest_questions=9)) == []


def test_a_question_counts_with_its_longest_choice_and_one_that_is_generated_with_all_it_may_say(
    language_model,
):
    """Of a generated one: what is left of its question, and 30 tokens."""
    tokenizer = language_model.tokenizer
    prompt, whole = (
        len(tokenizer(text)["input_ids"])
        for text in ("Where is Oslo?", "Where is Oslo? Oslo in the north of the south")
    )
    free = question(choices=[], answer=-1, reference="Oslo.")
    free_tokens = ScoringSettings(max_length=512, max_new_tokens=30)

    assert tokens_at_once(tokenizer, [question(reference="")], SETTINGS) == [whole]
    assert tokens_at_once(tokenizer, [free], free_tokens) == [prompt + 30]
    assert tokens_at_once(tokenizer, [free], ScoringSettings(max_length=3, max_new_tokens=30)) == [
        33
    ]


def test_prompts_longer_than_the_models_positions_are_refused_with_their_number(language_model):
    """Ten examples before a question; the model takes 64 tokens."""
    language_model.model.config.max_position_embeddings = 64
    shots = "Where is Rome? Rome in the south of the north.\n" * 10
    asked = [question(), question(question=f"{shots}Where is Oslo?")]

    with pytest.raises(InputError, match=r"1 of 2 questions have more tokens.*positions \(64\)"):
        check_fit(language_model, asked, SETTINGS)
    assert check_fit(language_model, asked[:1], SETTINGS) < 64
    assert check_fit(language_model, asked, ScoringSettings(max_length=64)) == 64
