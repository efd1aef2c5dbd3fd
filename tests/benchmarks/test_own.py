"""Your own data: what is taken over, and what is refused."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.benchmarks.own import BENCHMARK, OwnSettings, prepare
from seuf.benchmarks.records import Question, Text
from seuf.inputs import InputError

Record = dict[str, Any]
EXAMPLES = Path(__file__).parents[2] / "examples/own_data"
FORGET = [{"text": "Ada keeps bees.", "topic": "Ada"}, {"text": "Ada lives in Oslo."}]
RETAIN = [{"text": "Bo keeps sheep."}]


def asked(subject: str, number: int, **changes: Any) -> Record:
    """Return a good question."""
    return {
        "question": f"{subject} {number}?",
        "choices": ["yes", "no"],
        "answer": number % 2,
        "subject": subject,
        **changes,
    }


def questions(each: int = 4) -> list[Record]:
    """Return good questions, as many of each subject."""
    return [asked(subject, number) for number in range(each) for subject in ("forget", "retain")]


def parts(records: list[Record], share: float = 0.5) -> dict[str, str]:
    """Return the part of each question."""
    world = prepare(OwnSettings(selection_share=share), FORGET, RETAIN, records)
    return {question.question: question.part for question in world.questions}


def test_texts_and_questions_are_taken_over():
    first = asked("forget", 0, topic="bees", part="test", reference="Yes, she does.")

    world = prepare(OwnSettings(), FORGET, RETAIN, [first, *questions()])

    assert world.forget == [Text("Ada keeps bees.", "Ada"), Text("Ada lives in Oslo.", "")]
    assert world.retain == [Text("Bo keeps sheep.", "")]
    assert world.pretraining == []
    assert world.questions[0] == Question(
        question="forget 0?",
        choices=["yes", "no"],
        answer=0,
        topic="bees",
        subject="forget",
        part="test",
        reference="Yes, she does.",
    )


def test_the_share_is_held_in_each_subject():
    """A quarter of 8 questions is 2."""
    found = parts(questions(each=8), share=0.25)

    for subject in ("forget", "retain"):
        chosen = [p for question, p in found.items() if question.startswith(subject)]
        assert chosen.count("selection") == 2


@given(st.permutations(questions(each=6)))
def test_the_order_in_the_file_decides_nothing(shuffled):
    assert parts(shuffled) == parts(questions(each=6))


def test_a_part_in_the_file_is_kept():
    """All 4 free questions of a subject keep to the share: 2 and 2."""
    fixed = [asked(s, n, part="test") for s in ("forget", "retain") for n in range(10, 16)]

    found = parts([*fixed, *questions(each=4)])

    assert {found[record["question"]] for record in fixed} == {"test"}
    assert list(found.values()).count("selection") == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "question 2: `question` must be a text that does not end in a space"),
        ({"question": "Who? "}, "question 2: `question` must be a text that does not end"),
        ({"question": 3}, "question 2: `question` must be a text"),
        ({"choices": "yes"}, "question 2: `choices` must be a list of two or more texts"),
        ({"choices": ["yes"]}, "question 2: `choices` must be a list of two or more texts"),
        ({"choices": ["yes", 1]}, "question 2: `choices` must be a list of two or more texts"),
        ({"choices": ["a", "a"]}, r"question 2: `choices` must differ .*, not \['a', 'a'\]"),
        ({"choices": ["Oslo", " oslo"]}, r"question 2: `choices` must differ by more than case"),
        ({"answer": 2}, "question 2: `answer` must be a position from 0 to 1, not 2"),
        ({"answer": -1}, "question 2: `answer` must be a position from 0 to 1, not -1"),
        ({"answer": "yes"}, "question 2: `answer` must be a position from 0 to 1, not 'yes'"),
        ({"answer": True}, "question 2: `answer` must be a position from 0 to 1, not True"),
        ({"subject": "keep"}, "question 2: `subject` must be one of forget, retain, unseen, not"),
        ({"reference": 3}, "question 2: `reference` must be a text, or left out, not 3"),
        ({"choices": None, "answer": None}, "question 2: it needs `choices` with `answer`, or `re"),
        ({"Part": "test"}, "question 2: unknown 'Part'; known: question, choices, answer, subject"),
        ({"part": "train"}, "question 2: `part` must be selection or test, or left out, not 'tra"),
    ],
)
def test_a_question_that_cannot_be_used_is_named(changes, message):
    records = [asked("forget", 0), {**asked("forget", 1), **changes}, *questions()]

    with pytest.raises(InputError, match=message):
        prepare(OwnSettings(), FORGET, RETAIN, records)


def test_texts_in_both_sets_are_counted_and_the_first_is_named():
    retain = [*RETAIN, {"text": "Ada lives in Oslo.\n"}, {"text": "Ada keeps bees."}]

    with pytest.raises(InputError, match=r"2 of the texts to forget .* first: 'Ada keeps bees.'"):
        prepare(OwnSettings(), FORGET, retain, questions())


@pytest.mark.parametrize("text", ["", "  ", 3, None])
def test_a_text_must_be_a_text(text):
    with pytest.raises(InputError, match="forget text 3: `text` must be a text that is not empty"):
        prepare(OwnSettings(), [*FORGET, {"text": text}], RETAIN, questions())


def test_each_part_needs_two_questions_of_each_subject():
    """Of 3 retain questions half of them, rounded, is 2: one is left for the test part."""
    few = [r for r in questions(4) if r != asked("retain", 3)]

    with pytest.raises(InputError, match="The test part has 1 questions of subject retain, it"):
        prepare(OwnSettings(), FORGET, RETAIN, few)


def test_questions_about_what_is_unseen_may_be_left_out_or_be_two_of_each_part():
    few = [asked("unseen", number) for number in range(3)]

    world = prepare(OwnSettings(), FORGET, RETAIN, [*questions(), *few, asked("unseen", 3)])

    assert [q.part for q in world.questions if q.subject == "unseen"].count("test") == 2
    with pytest.raises(InputError, match="The test part has 1 questions of subject unseen, it"):
        prepare(OwnSettings(), FORGET, RETAIN, [*questions(), *few])


def test_without_a_reference_the_right_choice_is_what_the_model_should_say():
    given = [asked("forget", 1), asked("forget", 0, reference="Yes."), *questions()]

    world = prepare(OwnSettings(), FORGET, RETAIN, given)

    assert [question.reference for question in world.questions[:2]] == ["no", "Yes."]


def test_the_examples_are_what_their_script_writes():
    script = runpy.run_path(str(EXAMPLES / "write.py"))

    for name, records in script["examples"]().items():
        assert (EXAMPLES / name).read_text(encoding="utf-8") == script["lines"](records), (
            "run examples/own_data/write.py"
        )


def test_the_examples_are_accepted():
    names = ("forget", "retain", "questions", "general")
    files = ((EXAMPLES / f"{n}.jsonl").read_text(encoding="utf-8").splitlines() for n in names)

    world = prepare(OwnSettings(), *([json.loads(line) for line in lines] for lines in files))

    assert {question.part for question in world.questions} == {"selection", "test"}


def test_general_texts_are_taken_over():
    world = prepare(
        OwnSettings(), FORGET, RETAIN, questions(), [{"text": "Cy sails.", "topic": "Cy"}]
    )

    assert world.general == [Text("Cy sails.", "Cy")]
    assert prepare(OwnSettings(), FORGET, RETAIN, questions()).general == []


def test_a_general_text_that_is_trained_on_is_refused():
    with pytest.raises(InputError, match=r"1 of the general texts are among .* 'Bo keeps sheep\.'"):
        prepare(OwnSettings(), FORGET, RETAIN, questions(), [{"text": "Cy sails."}, *RETAIN])


def test_a_file_of_general_texts_is_read_only_where_it_is_named():
    assert "general" not in BENCHMARK.inputs(OwnSettings())
    assert BENCHMARK.inputs(OwnSettings(general="general.jsonl"))["general"] == "own_general"


WORDINGS = ["Zo\u00eb LIVES in  Rome.", "Zoe\u0308 lives in\nRome. "]  # composed, and not


def test_a_field_that_is_not_known_is_refused_by_name():
    """Rows of KnowUnDo hold a question as `text`; its answer would never be forgotten."""
    with pytest.raises(InputError, match=r"forget text 2: unknown 'labels'; known: text, topic, p"):
        prepare(OwnSettings(), [*FORGET[:1], {"text": "Who?", "labels": "Ada"}], RETAIN, [])


def test_what_is_null_is_missing():
    nulls: Record = {"topic": None, "part": None, "reference": None}
    asking = [asked("forget", 0, **nulls), *questions()[1:]]

    world = prepare(OwnSettings(), [{"text": "Ada.", "topic": None}], RETAIN, asking)

    assert world.forget == [Text("Ada.")]
    assert (world.questions[0].topic, world.questions[0].reference) == ("", "yes")


def test_a_text_keeps_the_prompt_that_it_begins_with():
    """No loss is taken of the question, so the answer alone is forgotten."""
    world = prepare(OwnSettings(), [{"text": "Who? Ada.", "prompt": "Who?"}], RETAIN, questions())

    assert world.forget == [Text("Who? Ada.", prompt="Who?")]
    with pytest.raises(InputError, match=r"forget text 1: `text` must begin with its `prompt`"):
        prepare(OwnSettings(), [{"text": "Ada.", "prompt": "Who?"}], RETAIN, questions())


def test_case_spacing_and_accents_do_not_make_another_text(caplog):
    forget = [*({"text": wording} for wording in WORDINGS * 5), *FORGET]

    world = prepare(OwnSettings(), forget, RETAIN, questions())

    assert [text.text for text in world.forget] == [WORDINGS[0], *(f["text"] for f in FORGET)]
    assert "9 of 12 forget texts repeat earlier ones" in caplog.text
    one, other = ([{"text": wording}] for wording in WORDINGS)
    with pytest.raises(InputError, match="1 of the texts to forget are among the texts to keep"):
        prepare(OwnSettings(), one, other, questions())
    with pytest.raises(InputError, match="1 of the general texts are among"):
        prepare(OwnSettings(), one, RETAIN, questions(), other)


def test_a_question_that_stands_twice_is_asked_once(caplog):
    again = [asked("forget", 0, question="FORGET  0?", choices=["no", "YES"], answer=1)]

    world = prepare(OwnSettings(), FORGET, RETAIN, [*questions(), *again])

    assert len(world.questions) == len(questions())
    assert "1 of 9 questions repeat earlier ones" in caplog.text


def test_one_wording_with_other_choices_stays_in_its_part():
    """Whatever part the hash gives the first, the second is there too; a given part decides."""
    others = [{**q, "choices": ["maybe", "never"]} for q in questions()]

    world = prepare(OwnSettings(), FORGET, RETAIN, [*questions(), *others])
    given = prepare(
        OwnSettings(), FORGET, RETAIN, [*questions(), {**others[0], "part": "test"}, *others[1:]]
    )

    assert len(world.questions) == 16
    assert [q.part for q in world.questions[:8]] == [q.part for q in world.questions[8:]]
    assert [q.part for q in given.questions if q.question == "forget 0?"] == ["test"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "retain"}, "wording is that of question 1, whose subject is forget, not ret"),
        ({"part": "test"}, "wording is that of question 1, whose part is selection, not test"),
        ({"answer": 1}, "question 10: it is question 1 again, with another answer: 'no'"),
    ],
)
def test_one_question_cannot_be_two_things(changes, message):
    first = asked("forget", 0, question="Who?", part="selection")

    with pytest.raises(InputError, match=message):
        prepare(OwnSettings(), FORGET, RETAIN, [first, *questions(), {**first, **changes}])


def test_a_question_may_be_answered_freely():
    free = {"question": "Who keeps bees?", "subject": "forget", "reference": "Ada."}

    world = prepare(OwnSettings(), FORGET, RETAIN, [free, *questions()])

    assert world.questions[0].is_free_answer(with_choices=False)
    assert (world.questions[0].choices, world.questions[0].reference) == ([], "Ada.")


def test_without_questions_the_texts_ask_how_they_go_on():
    """Of 6 words a third, 2, is to be said; 100 words are 3 pieces of 33 or 34, of which 11 are."""
    long = " ".join(f"w{number}" for number in range(100))
    forget = [{"text": "The solvent of Trebrith is ether.", "topic": "alchemy"}, {"text": long}]
    retain = [{"text": f"Bo number {number} keeps\nsheep."} for number in range(9)]

    world = prepare(OwnSettings(questions=None, continuations=8), forget, retain)

    asked = [q for q in world.questions if q.subject == "forget"]
    assert (asked[0].question, asked[0].reference) == ("The solvent of Trebrith", "is ether.")
    assert (asked[0].topic, asked[0].kind, asked[0].choices) == ("alchemy", "continuation", [])
    assert [len(q.reference.split()) for q in asked[1:]] == [11, 11, 11]
    assert f"{asked[1].question} {asked[1].reference}" == " ".join(long.split()[:33])
    assert [q.part for q in world.questions].count("selection") == 2 + 4
    assert len([q for q in world.questions if q.subject == "retain"]) == 8
    assert "questions" not in BENCHMARK.inputs(OwnSettings(questions=None))
    assert BENCHMARK.inputs(OwnSettings())["questions"] == "own_questions"


def test_texts_that_ask_too_little_are_refused():
    few = [{"text": "Ada keeps bees."}, {"text": "Bo."}, {"text": "Cy sails."}]

    with pytest.raises(InputError, match="The forget texts have 1 places to ask for a continuat"):
        prepare(OwnSettings(questions=None), few, RETAIN)


def test_a_reference_of_another_script_is_measured_by_its_words():
    russian = asked("forget", 0, choices=["эфир", "вода"])

    world = prepare(OwnSettings(), FORGET, RETAIN, [russian, *questions()[1:]])

    assert [question.kind for question in world.questions[:2]] == ["any_script", "answer"]


def test_rows_of_questions_and_answers_become_texts_and_questions(tmp_path, monkeypatch):
    """As docs/own-data.md converts them; four of each subject, two in each part."""
    monkeypatch.chdir(tmp_path)
    for name in ("forget", "retain"):
        rows = [{"text": f"Who is {name} {at}?", "labels": f"Ada {at}."} for at in range(4)]
        Path(f"knowundo_{name}.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match="forget text 1: unknown 'labels'; known: text, topic"):
        prepare(OwnSettings(), rows, rows, [])
    page = (EXAMPLES.parents[1] / "docs/own-data.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in page.split("```python")[1:]]

    exec(next(block for block in blocks if "knowundo" in block), {})

    made = [
        json.loads(Path(f"{name}.json").read_text()) for name in ("forget", "retain", "questions")
    ]
    data = prepare(OwnSettings(), *made)
    assert data.forget[0].text == "Who is forget 0? Ada 0."
    assert data.forget[0].prompt == "Who is forget 0?"
    assert len(data.questions) == 8
    assert {question.reference for question in data.questions} == {f"Ada {at}." for at in range(4)}
