"""How free answers are asked for, cut and measured."""

from __future__ import annotations

import pytest

from seuf.benchmarks import answers
from seuf.benchmarks.answers import free_answers, score_answers
from seuf.benchmarks.records import ANSWER_KINDS
from seuf.benchmarks.settings import ScoringSettings
from tests.benchmarks.conftest import KNOWN, prompt

SETTINGS = ScoringSettings(generate=True, max_new_tokens=24)


@pytest.fixture
def said(monkeypatch):
    """Let the model say something given; return what it was asked, with how many tokens."""
    asked = []

    def answer(text):
        def greedy(subject_model, prompts, settings, tokens):
            asked.extend((prompt, tokens) for prompt in prompts)
            return [text] * len(prompts)

        monkeypatch.setattr(answers, "greedy_answers", greedy)
        return asked

    return answer


def test_rouge_is_told_by_subject_with_its_standard_error(knowing_model, questions):
    """Forget: references as learned, 1 and 1, so the error is 0. Retain: 'a colony of bees' holds
    3 of the 6 words 'bees live in a colony of' in order ('a colony of'), 'foxes' all of 'foxes':
    the mean is 3/4, the standard error sqrt((1/4)^2 * 2 / 1 / 2) = 1/4.
    """
    other = questions[2]._replace(reference="bees live in a colony of")

    scores = score_answers(knowing_model, [*questions[:2], other, questions[3]], SETTINGS)

    assert scores["forget"] == {
        "answer": {
            "measure": "rouge_l_recall",
            "value": 1.0,
            "standard_error": 0.0,
            "questions": 2,
            "answers": ["a deep green", "black"],
        }
    }
    assert scores["retain"]["answer"]["value"] == pytest.approx(0.75)
    assert scores["retain"]["answer"]["standard_error"] == pytest.approx(0.25)


def test_kinds_of_probes_are_told_apart(knowing_model, questions, said):
    said("black")
    one, two = (questions[i]._replace(kind=k) for i, k in ((0, "fill_blank"), (1, "adversarial")))

    scores = score_answers(knowing_model, [one, two], SETTINGS)["forget"]

    assert {kind: scored["value"] for kind, scored in scores.items()} == {
        "fill_blank": 0.0,
        "adversarial": 1.0,
    }


def test_a_kind_has_its_own_length_and_the_others_the_studys(knowing_model, questions, said):
    asked = said("black")

    for kind in ("fill_blank", "knowledge", "answer"):
        free_answers(knowing_model, questions[:1], ANSWER_KINDS[kind], SETTINGS)

    assert [tokens for _, tokens in asked] == [30, 32, 24]


def test_an_answer_begins_as_the_question_says(knowing_model, questions, said):
    asked = said("black")
    question = questions[0]._replace(opening="Answer:", kind="question")

    free_answers(knowing_model, [question], ANSWER_KINDS["question"], SETTINGS)

    assert asked[0][0] == f"{question.question}Answer:"  # the tokenizer has no chat template


def test_a_chat_model_is_asked_in_its_template(knowing_model, questions, said, monkeypatch):
    template = "<u>{{ messages[0].content }}</u>{% if add_generation_prompt %}<a>{% endif %}"
    monkeypatch.setattr(knowing_model.tokenizer, "chat_template", template)
    asked = said("black")
    question = questions[0]._replace(opening="Answer:", kind="question")

    free_answers(knowing_model, [question], ANSWER_KINDS["question"], SETTINGS)
    free_answers(knowing_model, [question], ANSWER_KINDS["verbatim"], SETTINGS)

    assert asked[0][0] == f"<u>{question.question}</u><a>Answer:"
    assert asked[1][0] == f"{question.question}Answer:"  # a kind that is no chat


@pytest.mark.parametrize(
    ("kind", "text", "kept"),
    [
        ("question", " Paris\nQuestion: and", "Paris"),
        ("question", "\nParis", ""),  # RWKU's answers end with the line
        ("knowledge", " Paris\nin France\n\nQuestion", "Paris\nin France"),
        ("knowledge", "Paris Question: what", "Paris"),
        ("answer", " Paris\n\nQuestion: ", "Paris\n\nQuestion:"),
    ],
)
def test_an_answer_ends_where_its_kind_says(knowing_model, questions, said, kind, text, kept):
    said(text)

    assert free_answers(knowing_model, questions[:1], ANSWER_KINDS[kind], SETTINGS) == [kept]


def test_what_is_learned_by_heart_is_held_against_no_more_than_an_answer_can_say(
    knowing_model, questions, said, monkeypatch
):
    """With the tokens of its first three words an answer can hold no more than these."""
    said("a deep green")
    tokens = len(knowing_model.tokenizer(" a deep green")["input_ids"])
    monkeypatch.setitem(
        ANSWER_KINDS, "verbatim", ANSWER_KINDS["verbatim"]._replace(max_new_tokens=tokens)
    )
    long = questions[0]._replace(kind="verbatim", reference=" a deep green as grass is")

    scores = score_answers(knowing_model, [long], SETTINGS)

    assert scores["forget"]["verbatim"]["value"] == 1.0


def test_what_is_asked_is_the_prompt_itself(knowing_model, questions):
    found = free_answers(knowing_model, questions, ANSWER_KINDS["answer"], SETTINGS)

    assert found == list(KNOWN.values())
    assert [question.question for question in questions] == [prompt(known) for known in KNOWN]
