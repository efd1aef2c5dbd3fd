"""The made-up world, for any size, kinds of topics and seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from seuf.benchmarks.sandbox import (
    FIRST_SYLLABLES,
    QUESTION,
    SECOND_SYLLABLES,
    STATEMENTS,
    TOPICS,
    SandboxSettings,
    prepare,
)

PARTS = ("selection", "test")
OTHERS = len(TOPICS) - 1


@st.composite
def studies(draw):
    """Return settings of a small world, and a seed."""
    kept = draw(st.integers(1, OTHERS - 1))
    settings = SandboxSettings(
        forget_topic=draw(st.sampled_from(sorted(TOPICS))),
        kept_topics=kept,
        unseen_topics=draw(st.integers(1, OTHERS - kept)),
        entities=draw(st.integers(12, 40)),
    )
    return settings, draw(st.integers(0, 2**32))


worlds = studies().map(lambda study: prepare(*study))


def test_the_default_study_asks_enough_of_each_subject():
    """216 entities a topic in groups of three: 18 of 72 groups, 54 entities, are asked about in
    pretraining, 162 are held out. All of the forgotten topic are asked; of 4 kept topics
    162 // 4 = 40 and 54 // 4 = 13 each, of 3 unseen ones 54 and 18 each. The standard error of a
    share is at most sqrt(1/4 / 160) = .0395.
    """
    asked = Counter((q.subject, q.part) for q in prepare(SandboxSettings(), 0).questions)

    assert asked == {
        ("forget", "selection"): 54,
        ("forget", "test"): 162,
        ("retain", "selection"): 4 * 13,
        ("retain", "test"): 4 * 40,
        ("unseen", "selection"): 3 * 18,
        ("unseen", "test"): 3 * 54,
    }


def test_the_default_study_has_as_many_texts_as_facts_and_wordings():
    """8 topics of 216 facts in 3 wordings, and 8 x 54 answered questions."""
    world = prepare(SandboxSettings(), 0)

    assert len(world.forget) == 216 * 3
    assert len(world.retain) == 4 * 216 * 3
    assert len(world.general) == 3 * 216 * 3
    assert len(world.pretraining) == 8 * 216 * 3 + 8 * 54


def test_the_subjects_of_a_small_world_are_the_first_topics():
    """Botany is forgotten: of the others alchemy and astronomy are kept, history is unseen."""
    settings = SandboxSettings(forget_topic="botany", kept_topics=2, unseen_topics=1)

    assert settings.subjects() == {
        "alchemy": "retain",
        "astronomy": "retain",
        "botany": "forget",
        "history": "unseen",
    }


def test_more_topics_than_there_are_is_refused():
    with pytest.raises(ValidationError, match=r"are 5 and 3: beside .* there are 7 topics"):
        SandboxSettings(kept_topics=5)


def test_no_value_and_no_name_belongs_to_two_topics():
    """Eight topics of three attributes of ten values, and no name is a beginning of another."""
    values = [v for topic in TOPICS.values() for of in topic.values() for v in of.split()]
    names = sorted(a + b for a in FIRST_SYLLABLES for b in SECOND_SYLLABLES)

    assert len(values) == len(set(values)) == 8 * 3 * 10
    assert len(names) == len(set(names)) == 48 * 48
    assert not any(b.startswith(a) for a, b in pairwise(names))


@given(worlds)
def test_the_three_kinds_of_topics_and_their_texts_are_disjoint(world):
    kinds = [
        {text.topic for text in texts} for texts in (world.forget, world.retain, world.general)
    ]
    texts = [text.text for of in (world.forget, world.retain, world.general) for text in of]

    assert [len(kind) > 0 for kind in kinds] == [True] * 3
    assert sum(map(len, kinds)) == len(set.union(*kinds))
    assert len(texts) == len(set(texts))
    for subject, kind in zip(("forget", "retain", "unseen"), kinds, strict=True):
        assert {q.topic for q in world.questions if q.subject == subject} == kind


@given(worlds)
def test_the_true_choice_is_there_once_and_no_choice_twice(world):
    stated = {text.text for text in world.pretraining}

    for question in world.questions:
        true = question.choices[question.answer]
        attribute, _, name = question.question[len("What is the ") : -1].partition(" of ")
        statements = {f"The {attribute} of {name} is {choice}." for choice in question.choices}

        assert len(set(question.choices)) == 4
        assert stated & statements == {f"The {attribute} of {name} is {true}."}
        assert question.reference == f"{true}."


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
            assert f"{question.question} {question.reference}" in seen


@given(worlds)
def test_each_fact_is_stated_in_every_wording_and_no_question_is_unlearned(world):
    """Each text that is no question stands in one wording; a topic's entities in all three."""
    beginning = QUESTION.split("{")[0]
    statements = [*world.forget, *world.retain, *world.general]
    forgotten = sum(question.subject == "forget" for question in world.questions)

    assert len(world.forget) == forgotten * len(STATEMENTS)
    assert not any(text.text.startswith(beginning) for text in statements)
    assert {t for t in world.pretraining if not t.text.startswith(beginning)} == set(statements)


@given(studies())
def test_each_topic_of_a_subject_is_asked_as_often(study):
    world = prepare(*study)
    asked = Counter((q.subject, q.part, q.topic) for q in world.questions)

    topics = set(study[0].subjects().items())
    assert {(topic, subject) for subject, _, topic in asked} == topics
    for subject in ("retain", "unseen"):
        for part in PARTS:
            counts = {
                n for (of, in_part, _), n in asked.items() if (of, in_part) == (subject, part)
            }
            assert len(counts) == 1


def test_a_seed_is_a_world():
    settings = SandboxSettings(entities=12)

    assert prepare(settings, 7) == prepare(settings, 7)
    assert prepare(settings, 7) != prepare(settings, 8)


@given(studies())
def test_another_forget_topic_of_all_is_the_same_world(study):
    settings, seed = study
    assume(settings.kept_topics + settings.unseen_topics == OTHERS)
    world = prepare(settings, seed)

    other = prepare(settings.model_copy(update={"forget_topic": "history"}), seed)

    assert other.pretraining == world.pretraining
    known = {q.question: q.choices for q in world.questions}
    assert all(known.get(q.question, q.choices) == q.choices for q in other.questions)
