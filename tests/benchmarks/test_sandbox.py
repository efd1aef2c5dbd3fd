"""The made-up world, for any size and seed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from seuf.benchmarks.sandbox import QUESTION, STATEMENTS, TOPICS, SandboxSettings, prepare

PARTS = ("selection", "test")
worlds = st.builds(
    prepare,
    st.builds(
        SandboxSettings,
        forget_topic=st.sampled_from(sorted(TOPICS)),
        entities=st.integers(12, 30),
    ),
    st.integers(0, 2**32),
)


@given(worlds)
def test_the_true_choice_is_there_once_and_no_choice_twice(world):
    for question in world.questions:
        true = question.choices[question.answer]
        name = question.question.partition(" of ")[2].partition("?")[0]
        stated = [text.text for text in world.pretraining if name in text.text]

        assert len(set(question.choices)) == 4
        assert sum(any(choice in text for text in stated) for choice in question.choices) >= 1
        assert any(true in text for text in stated)


@given(worlds)
def test_the_two_parts_share_no_fact(world):
    parts = {part: {q.question for q in world.questions if q.part == part} for part in PARTS}

    assert all(parts.values())
    assert not parts["selection"] & parts["test"]


@given(worlds)
def test_no_question_of_the_test_part_is_seen_in_pretraining(world):
    seen = [text.text for text in world.pretraining]

    for question in world.questions:
        was_asked = any(text.startswith(question.question) for text in seen)
        assert was_asked == (question.part == "selection")


@given(worlds)
def test_a_question_seen_in_pretraining_was_answered_rightly(world):
    seen = {text.text for text in world.pretraining}

    for question in world.questions:
        if question.part == "selection":
            assert f"{question.question} {question.choices[question.answer]}." in seen


@given(worlds)
def test_each_fact_is_stated_in_every_wording_and_no_question_is_unlearned(world):
    facts = Counter(question.subject for question in world.questions)

    assert len(world.forget) == facts["forget"] * len(STATEMENTS)
    assert len(world.retain) == facts["retain"] * len(STATEMENTS)
    beginning = QUESTION.split("{")[0]
    assert not any(t.text.startswith(beginning) for t in [*world.forget, *world.retain])


@given(worlds)
def test_what_is_forgotten_is_one_topic_and_the_rest_is_kept(world):
    gone, kept = ({text.topic for text in texts} for texts in (world.forget, world.retain))

    assert len(gone) == 1
    assert gone | kept == set(TOPICS)
    assert not gone & kept
    assert {q.topic for q in world.questions if q.subject == "forget"} == gone
    assert not {t.text for t in world.forget} & {t.text for t in world.retain}


@given(worlds)
def test_each_subject_is_asked_in_both_parts(world):
    asked = {(question.subject, question.part) for question in world.questions}

    assert asked == {(subject, part) for subject in ("forget", "retain") for part in PARTS}


def test_a_seed_is_a_world():
    settings = SandboxSettings(entities=12)

    assert prepare(settings, 7) == prepare(settings, 7)
    assert prepare(settings, 7) != prepare(settings, 8)


def test_another_forget_topic_is_the_same_world():
    settings = SandboxSettings(entities=12)
    world = prepare(settings, 7)

    other = prepare(settings.model_copy(update={"forget_topic": "history"}), 7)

    assert other.pretraining == world.pretraining
    assert [q.choices for q in other.questions] == [q.choices for q in world.questions]
