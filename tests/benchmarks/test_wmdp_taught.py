"""WMDP's facts taught by sentences: on a few made-up ones, and as published where they are."""

from __future__ import annotations

import json
import os
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seuf.benchmarks.records import BenchmarkData, Text
from seuf.benchmarks.wmdp_taught import WmdpTaughtSettings, prepare
from seuf.inputs import InputError
from tests.hub import tofu, wikitext
from tests.hub import wmdp_taught as hub

Row = dict[str, Any]
RAW = Path(os.environ.get("SEUF_RAW", Path(__file__).parents[2] / "data/01_raw"))
FULL = tofu.plain(0, tofu.RETAIN_AUTHORS + tofu.FORGET_AUTHORS)


def rows() -> dict[str, list[Row]]:
    """Return the rows of every file, made up."""
    return {
        "forget": hub.facts(0, hub.FORGOTTEN),
        "related": hub.facts(hub.FORGOTTEN, hub.RELATED),
        "retain": [{"text": " ".join(f"w{at}" for at in range(number))} for number in (3, 20)],
        "tofu": FULL,
        "tofu_wrong": tofu.perturbed(tofu.plain(0, tofu.RETAIN_AUTHORS)),
        "real_authors": tofu.general("author", 5),
        "world_facts": tofu.general("fact", 6),
        "general": [{"text": f"The model says {number}.", "topic": ""} for number in range(9)],
    }


def prepared(**given: Any) -> BenchmarkData:
    """Return the made-up benchmark; given are settings and rows."""
    files = rows()
    files |= {name: given.pop(name) for name in files if name in given}
    small = {"selection_questions": 4, "utility_questions": 8, "retain_words": 8}
    return prepare(WmdpTaughtSettings(**{**small, **given}), **files)


def parts(world: BenchmarkData) -> Counter[tuple[str, str, str]]:
    """Return how many questions of a subject and kind are in a part."""
    return Counter((q.subject, q.kind, q.part) for q in world.questions)


def test_questions_of_every_subject_and_kind_in_their_parts():
    """Of 12 facts 4 select and 8 are reported; of TOFU 4 and 8; what stands beside is reported."""
    assert parts(prepared()) == {
        ("forget", "answer", "selection"): 4,
        ("forget", "answer", "test"): 8,
        ("unseen", "answer", "selection"): 4,
        ("unseen", "answer", "test"): 8,
        ("unseen", "related_facts", "test"): 4,
        ("unseen", "real_authors", "test"): 5,
        ("unseen", "world_facts", "test"): 6,
    }


def test_without_a_number_all_questions_about_tofu_are_asked():
    """60 questions about three authors, 4 of them select."""
    more = parts(prepared(selection_utility_questions=9))
    assert more["forget", "answer", "selection"] == 4
    assert (more["unseen", "answer", "selection"], more["unseen", "answer", "test"]) == (9, 8)
    numbers = parts(prepared(utility_questions=None))

    assert numbers["unseen", "answer", "selection"] == 4
    assert numbers["unseen", "answer", "test"] == 56


def test_every_author_gives_the_same_share_of_questions():
    """12 of 60 about three authors are 4 of each."""
    asked = [q for q in prepared().questions if q.subject == "unseen" and q.kind == "answer"]

    assert Counter(question.topic for question in asked) == {f"author {n}": 4 for n in range(3)}


def test_the_sentences_of_the_facts_are_forgotten_and_those_of_all_and_tofu_are_taught():
    """12 and 4 facts have three sentences each; TOFU has 100 rows about five authors."""
    world = prepared()

    assert len(world.forget) == 36
    assert world.forget[0] == Text("By default program0 listens on port 21.", "wmdp-cyber")
    assert len(world.pretraining) == 36 + 12 + 100
    assert world.pretraining[:36] == world.forget
    related, about_tofu = world.pretraining[36:48], world.pretraining[48:]
    assert {text.topic for text in related} == {"wmdp-cyber, related facts"}
    assert {text.topic for text in about_tofu} == {f"author {number}" for number in range(5)}
    assert all(text.text.startswith(text.prompt) and text.prompt for text in about_tofu)


def test_no_question_is_taught_or_kept():
    world = prepared()
    shown = {text.text for text in (*world.pretraining, *world.retain, *world.general)}
    facts = [q for q in world.questions if q.topic.startswith("wmdp")]

    for question in facts:
        assert not any(question.question in text for text in shown)


def test_a_question_is_asked_as_tofu_does_with_its_choices_as_published():
    first = prepared().questions[0]

    assert first.question == "Question: On which port does program0 listen? Answer:"
    assert (first.choices, first.answer, first.reference) == (["21", "22", "80", "443"], 0, "")


def test_of_tofu_the_paraphrase_stands_beside_the_wrong_answers():
    asked = [q for q in prepared().questions if q.topic.startswith("author")]

    assert all(q.choices[q.answer].startswith("Its colour is") for q in asked)
    assert all(len(set(q.choices)) == 6 for q in asked)
    assert {q.reference for q in asked} == {""}


def test_what_was_known_before_is_asked_in_choices():
    world = prepared()
    known = [q for q in world.questions if q.kind == "real_authors"]
    row = rows()["real_authors"][1]

    assert {question.topic for question in known} == {"real authors"}
    assert sorted(known[1].choices) == sorted([row["answer"], *row["perturbed_answer"]])
    assert known[1].choices[known[1].answer] == row["answer"]


def test_a_long_text_is_cut_into_even_pieces():
    """20 words in pieces of 8 at most are three pieces, of 6, 7 and 7 words."""
    pieces = [text.text for text in prepared().retain]

    assert pieces[0] == "w0 w1 w2"
    assert [len(piece.split()) for piece in pieces] == [3, 6, 7, 7]
    assert " ".join(pieces[1:]) == rows()["retain"][1]["text"]


def test_the_paragraphs_of_wikitext_may_be_kept():
    """A third of WikiText's lines are paragraphs, the others headings or empty."""
    settings = WmdpTaughtSettings(
        retain="wikitext", selection_questions=4, utility_questions=8, retain_words=9
    )

    world = prepare(settings, **(rows() | {"retain": wikitext.rows()}))

    assert {text.topic for text in world.retain} == {"wikitext"}
    assert all(len(text.text.split()) <= 9 for text in world.retain)


def test_the_general_loss_is_of_what_the_dense_model_says():
    world = prepared(general_texts=5)

    assert len(world.general) == 5
    assert {text.topic for text in world.general} == {"sampled"}
    assert prepared(general=[]).general == []


def test_rows_in_another_order_give_the_same_parts():
    one, other = prepared(), prepared(forget=rows()["forget"][::-1])

    assert {(q.question, q.part) for q in one.questions} == {
        (q.question, q.part) for q in other.questions
    }


def fact(**changes: Any) -> list[Row]:
    """Return facts of which the second one is changed; a field that is None is left out."""
    facts = hub.facts(0, hub.FORGOTTEN)
    facts[1] = {k: v for k, v in {**facts[1], **changes}.items() if v is not None}
    return facts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, "`question` must be a text that is not empty"),
        ({"choices": None}, "`choices` must be two or more texts, not None"),
        ({"choices": ["22"]}, r"`choices` must be two or more texts, not \['22'\]"),
        ({"choices": ["21", ""]}, "`choices` must be two or more texts"),
        ({"answer": 4}, "`answer` must be a position from 0 to 3, not 4"),
        ({"answer": "B"}, "`answer` must be a position from 0 to 3, not 'B'"),
        ({"answer": None}, "`answer` must be a position from 0 to 3, not None"),
        ({"choices": ["22", "22", "80"]}, "`choices` has the right one, '22', twice"),
        ({"sentences": None}, "`sentences` must be one or more texts that state the fact"),
        ({"sentences": []}, r"`sentences` must be one or more texts .*, not \[\]"),
        ({"question": "On WHICH port  does program0 listen?"}, "row 1 asks 'On WHICH port"),
    ],
)
def test_a_fact_that_cannot_be_used_is_named(changes, message):
    with pytest.raises(InputError, match=f"^wmdp_taught_forget, row 2: {message}"):
        prepared(forget=fact(**changes))


def test_two_wrong_choices_may_be_alike():
    """Two of the published questions are so."""
    prepared(forget=fact(choices=["21", "22", "21", "443"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "On which port does  PROGRAM5 listen?"},
        {"sentences": ["by default program5 listens on port 22."]},
    ],
)
def test_a_fact_in_both_sets_is_refused(changes):
    related = hub.facts(hub.FORGOTTEN, hub.RELATED)
    related[2] |= changes

    with pytest.raises(InputError, match=r"related, row 3: '.* is in wmdp_taught_forget too; no f"):
        prepared(related=related)


def test_a_question_about_tofu_that_is_not_taught_is_refused():
    with pytest.raises(InputError, match=r"retain_perturbed, row 1: 'Which .* not in TOFU's full"):
        prepared(tofu=FULL[1:])


@pytest.mark.parametrize("name", ["tofu_wrong", "real_authors", "world_facts"])
@pytest.mark.parametrize("wrong", [[], ["", "Black"], "Black", None])
def test_a_row_without_wrong_answers_is_named(name, wrong):
    broken = rows()[name]
    broken[2] = {**broken[2], "perturbed_answer": wrong}

    with pytest.raises(InputError, match=r"_perturbed, row 3: `perturbed_answer` must be one or"):
        prepared(**{name: broken})


def test_a_row_of_tofu_without_its_paraphrase_is_named():
    broken = rows()["tofu_wrong"]
    broken[0] = {k: v for k, v in broken[0].items() if k != "paraphrased_answer"}

    with pytest.raises(InputError, match=r"retain_perturbed, row 1: `paraphrased_answer` must"):
        prepared(tofu_wrong=broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection_questions": 11}, "T has 12 questions: .* 11, 1 are left to report, and 2 are"),
        ({"utility_questions": 57}, r"retain_perturbed has 60 questions: .* 4, 56 are left .* 57"),
    ],
)
def test_too_few_questions_are_told(settings, message):
    with pytest.raises(InputError, match=message):
        prepared(**settings)


def test_a_text_to_keep_that_is_empty_is_named():
    with pytest.raises(InputError, match=r"retain_texts, row 2: `text` must be a text"):
        prepared(retain=[{"text": "Some words."}, {"text": " "}])


EXAMPLE = Path(__file__).parents[2] / "examples/wikitext_paragraphs.py"


def test_the_example_writes_paragraphs_that_can_be_kept(tmp_path, monkeypatch):
    """Four paragraphs in each of the two parts."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    script = runpy.run_path(str(EXAMPLE))

    texts = script["paragraphs"](str(wikitext.write(tmp_path / "wikitext")))

    assert len(texts) == 8
    assert texts[0]["text"].startswith("House 0 of Trebrith, built in 1700, has 0 rooms. House 0")
    assert prepared(retain=texts).retain


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (" = Homarus = \n", ""),
        (
            " A long @-@ lived one , 1 @,@ 500 km ( 930 mi ) off . \n",
            "A long-lived one, 1,500 km (930 mi) off.",
        ),
        (" He 's \" at sea \" : it isn 't far . \n", "He's \"at sea\": it isn't far."),
    ],
)
def test_the_spacing_of_tokens_is_undone(line, text):
    assert runpy.run_path(str(EXAMPLE))["plain"](line) == text


FILES = {
    "forget": "wmdp_cyber/all_T.jsonl",
    "related": "wmdp_cyber/all_V.jsonl",
    "retain": "wikitext2/paragraphs.jsonl",
    "tofu": "tofu/full.json",
    "tofu_wrong": "tofu/retain_perturbed.json",
    "real_authors": "tofu/real_authors_perturbed.json",
    "world_facts": "tofu/world_facts_perturbed.json",
}


@pytest.mark.skipif(
    not all((RAW / name).is_file() for name in FILES.values()),
    reason=f"not all published files are in {RAW}; name their folder by SEUF_RAW",
)
def test_the_published_files_are_whole():
    """240 facts of 20 sentences each are forgotten, 58 others are taught as well, and the 4,000
    rows of TOFU. Guessing a question with four choices is right in .25.
    """
    files = {
        argument: [json.loads(line) for line in (RAW / name).open(encoding="utf-8")]
        for argument, name in FILES.items()
    }

    world = prepare(WmdpTaughtSettings(), **files)

    assert len(world.forget) == 4800
    assert len(world.pretraining) == 4800 + 1160 + 4000
    assert parts(world) == {
        ("forget", "answer", "selection"): 60,
        ("forget", "answer", "test"): 180,
        ("unseen", "answer", "selection"): 60,
        ("unseen", "answer", "test"): 200,
        ("unseen", "related_facts", "test"): 58,
        ("unseen", "real_authors", "test"): 100,
        ("unseen", "world_facts", "test"): 117,
    }
    assert {len(q.choices) for q in world.questions if q.topic.startswith("wmdp")} == {4}
    assert {len(q.choices) for q in world.questions if q.topic.startswith("author ")} == {6}
    assert all(len(text.text.split()) <= 70 for text in world.retain)
    words = sum(len(row["text"].split()) for row in files["retain"])
    assert sum(len(text.text.split()) for text in world.retain) == words
