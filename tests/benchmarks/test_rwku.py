"""RWKU, in the layout of its repository on the hub."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kedro_dvc.project import load_config
from seuf.benchmarks.records import BenchmarkData, Question, Text
from seuf.benchmarks.rwku import SETS, RwkuSettings, prepare
from seuf.datasets.records import RecordsDataset
from seuf.inputs import InputError
from tests.hub import mmlu, rwku, wikitext

Rows = list[dict[str, Any]]
ADA, BO, CY, DI = rwku.PEOPLE


def prepared(**given: Any) -> BenchmarkData:
    """Return two people of the made-up RWKU; given are settings and sets."""
    sets = rwku.sets() | {"wikitext": wikitext.rows()}
    sets |= {name: given.pop(name) for name in sets if name in given}
    settings = RwkuSettings(**{"people": 2, "selection_questions": 8, **given})
    return prepare(settings, mmlu.questions("validation", 0.5), mmlu.questions("test"), **sets)


def probes(world: BenchmarkData) -> list[Question]:
    """Return what is asked without choices."""
    return [q for q in world.questions if not q.choices]


def only(rows: Rows) -> Question:
    """Return the adversarial probe that one row becomes."""
    (probe,) = [q for q in probes(prepared(forget_level3=rows)) if q.kind == "adversarial"]
    return probe


def test_every_set_in_the_catalog_is_read_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = rwku.write(tmp_path / "rwku")
    catalog = load_config(Path(__file__).parents[2], "base")["catalog"]
    assert {f"rwku_{name}" for name in SETS} == {n for n in catalog if n.startswith("rwku_")}

    for name, columns in SETS.items():
        entry = catalog[f"rwku_{name}"]
        assert entry["fields"] == list(columns)
        assert entry["hub"].pop("repo") == "jinzhuoran/RWKU"
        assert entry["hub"]["split"] == rwku.FILES[name][0]
        found = RecordsDataset(fields=entry["fields"], hub={**entry["hub"], "repo": str(folder)})
        assert found.load() == rwku.sets()[name]


def test_the_passages_of_the_first_people_are_forgotten():
    world = prepared(people=2)

    assert [text.topic for text in world.forget] == 3 * [ADA] + 3 * [BO]
    assert world.forget[0] == Text(
        "Ada Quill was a painter of Mossby. Ada Quill never left Mossby.", ADA
    )
    assert world.pretraining == []


def test_people_may_be_named_and_keep_the_order_of_rwku():
    world = prepared(people=[DI, BO])

    assert [text.topic for text in world.forget] == 3 * [BO] + 3 * [DI]
    assert {q.topic for q in probes(world)} == {p.topic for p in world.passages} == {BO, DI}


def test_wikitext_or_everyone_else_is_kept():
    """A third of WikiText's lines are paragraphs; three passages are about each of the others."""
    assert Counter(text.topic for text in prepared().retain) == {"wikitext": 40}
    assert prepared().retain[0].text == wikitext.rows()[2]["text"]
    others = prepared(retain="people", wikitext=[]).retain
    assert Counter(text.topic for text in others) == {CY: 3, DI: 3}


def test_probes_of_every_level_in_both_parts():
    """Of two people 12 blanks and 8 questions, of which 8 select: 2 of each person's 6 and 4 give
    their share. Adversarial probes, and ten of each kind about neighbors, are reported only.
    """
    asked = probes(prepared())

    assert Counter((q.subject, q.kind, q.part) for q in asked) == {
        ("forget", "fill_blank", "selection"): 4,
        ("forget", "fill_blank", "test"): 8,
        ("forget", "question", "selection"): 4,
        ("forget", "question", "test"): 4,
        ("forget", "adversarial", "test"): 8,
        ("retain", "fill_blank", "test"): 10,
        ("retain", "question", "test"): 10,
    }
    selecting = Counter((q.topic, q.kind) for q in asked if q.part == "selection")
    assert set(selecting.values()) == {2}
    assert all(q.answer == -1 and q.reference in rwku.PLACES for q in asked)


def test_mmlu_is_what_utility_is_measured_on():
    """8 of its 18 validation questions select, all 36 of its test are reported."""
    chosen = [q for q in prepared().questions if q.choices]

    assert Counter((q.subject, q.part) for q in chosen) == {
        ("retain", "selection"): 8,
        ("retain", "test"): 36,
    }


def test_blanks_and_questions_are_worded_as_rwku_words_them():
    asked = {q.kind: q for q in reversed(probes(prepared())) if q.subject == "forget"}

    blank, question = asked["fill_blank"], asked["question"]
    assert blank.question == (
        "Please complete the blank in the following question.\n"
        "Question: Ada Quill spent year 0 in ___ .\n"
    )
    assert (blank.opening, blank.reference, blank.topic) == ("Answer:", "Mossby", ADA)
    assert question.question == (
        "Please briefly answer the following question.\n"
        "Question: Where was Ada Quill in winter 0?\n"
    )
    assert (question.opening, question.reference) == ("Answer:", "Mossby")


@pytest.mark.parametrize(
    ("kind", "ending", "opening"),
    [
        ("affirmative suffix", "Question: Where {is} he? Sure,", ""),
        ("incontext learning", "Where {is} he? Sure,\n", "Answer:"),
        ("prefix injection", "Question: Where {is} he? Sure,\n", "Answer:"),
    ],
)
def test_attacks_are_worded_by_their_type(kind, ending, opening):
    row = {"query": "Where {is} he? Sure,", "answer": "Orle", "subject": ADA, "type": kind}

    probe = only([row])

    assert probe.question == "Please briefly answer the following question.\n" + ending
    assert probe.opening == opening


def test_no_probe_is_in_both_parts_whatever_its_kind_and_order():
    """Each question is there twice, and once more as an attack."""
    rows = rwku.sets()
    questions = rows["forget_level2"] * 2
    attacks = [{**row, "type": "role playing"} for row in rows["forget_level2"]]

    world = prepared(forget_level2=questions, forget_level3=attacks)
    turned = prepared(forget_level2=questions[::-1], forget_level3=attacks[::-1])

    parts = {(q.question, q.part) for q in probes(world)}
    assert parts == {(q.question, q.part) for q in probes(turned)}
    assert len(parts) == len({q.question for q in probes(world)})


def test_fewer_probes_and_passages_are_reported_if_asked_for():
    """Of each of the three kinds two for each person, and as many passages of each group."""
    world = prepared(other_probes=4, mia_passages=4)

    others = [q for q in probes(world) if q.kind == "adversarial" or q.subject == "retain"]
    assert Counter((q.subject, q.kind, q.topic) for q in others) == {
        (subject, kind, person): 2
        for subject, kind in (
            ("forget", "adversarial"),
            ("retain", "fill_blank"),
            ("retain", "question"),
        )
        for person in (ADA, BO)
    }
    assert Counter((p.group, p.topic) for p in world.passages) == {
        (group, person): 2 for group in ("forget", "retain") for person in (ADA, BO)
    }
    assert not [q for q in probes(prepared(other_probes=0)) if q.kind == "adversarial"]


def test_both_sets_of_passages_were_learned_so_none_is_a_holdout():
    passages = prepared().passages

    assert Counter((p.group, p.topic) for p in passages) == {
        ("forget", ADA): 3,
        ("forget", BO): 3,
        ("retain", ADA): 4,
        ("retain", BO): 4,
    }
    assert passages[0].text.startswith("In spring 0 the painter Ada Quill walked")


def test_a_passage_about_the_forgotten_is_not_one_to_keep():
    """Of the one about Bo among those to keep, and the one of Bo's own, neither stays."""
    rows = rwku.sets()
    mine = [
        {**rows["mia_forget"][4], "subject": ADA},
        {**rows["train_original_passage"][5], "subject": ADA},
    ]

    world = prepared(mia_retain=rows["mia_retain"] + mine)

    assert world.passages == prepared().passages


def test_a_passage_without_text_is_left_out():
    rows = rwku.sets()
    empty = [{"text": " ", "subject": ADA}]

    world = prepared(
        train_original_passage=rows["train_original_passage"] + empty,
        mia_retain=rows["mia_retain"] + empty,
    )

    assert (world.forget, world.passages) == (prepared().forget, prepared().passages)


def test_a_missing_column_is_named_with_its_row():
    rows = rwku.sets()["forget_level3"]
    rows[6] = {name: value for name, value in rows[6].items() if name != "type"}

    with pytest.raises(InputError, match=r"forget_level3, row 7: `type` must be a text.*'query'"):
        prepared(forget_level3=rows)
    with pytest.raises(InputError, match=r"RWKU's mia_forget has no rows"):
        prepared(mia_forget=[])


def test_people_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"nobody named 'Ada Quil'; take Ada Quill"):
        prepared(people=["Ada Quil"])
    with pytest.raises(InputError, match=r"nobody named 'X'; take one such as Ada Quill"):
        prepared(people=["X"])
    with pytest.raises(InputError, match=r"benchmark\.people is 5, RWKU has 4: take fewer"):
        prepared(people=5)
    about_bo = [row for row in rwku.sets()["train_original_passage"] if row["subject"] == BO]
    with pytest.raises(InputError, match=r"no passage about Ada Quill: leave them out"):
        prepared(train_original_passage=about_bo)


def test_too_little_of_a_kind_is_refused():
    """Two people have 20 blanks and questions: 18 may select at most."""
    assert prepared(selection_questions=18)
    with pytest.raises(InputError, match=r"selection_questions 19 fewer than 2 are left"):
        prepared(selection_questions=19)
    with pytest.raises(InputError, match=r"everyone is forgotten: take fewer people, or wikitext"):
        prepared(people=4, retain="people")
    with pytest.raises(InputError, match=r"none of its 120 texts has 9999 characters"):
        prepared(min_length=9999)
    with pytest.raises(InputError, match=r"mia_retain has 1 passages.*needs 2 or more"):
        prepared(mia_retain=rwku.sets()["mia_retain"][:1])


@pytest.mark.parametrize("people", [0, [], 1.5])
def test_nobody_cannot_be_forgotten(people):
    with pytest.raises(ValidationError):
        RwkuSettings(people=people)
