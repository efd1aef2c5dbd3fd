"""WMDP: what is taken of its repositories, and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from datasets import load_dataset
from seuf.benchmarks.records import BenchmarkData, Text
from seuf.benchmarks.wmdp import WmdpSettings, prepare
from seuf.inputs import InputError
from tests.hub import mmlu, wikitext, wmdp

Row = dict[str, Any]


def prepared(domain: str = "cyber", **given: Any) -> BenchmarkData:
    """Return the domain of the made-up WMDP; given are settings and rows."""
    topic = wmdp.WORDS[domain]
    rows = {
        "forget": wmdp.texts(topic),
        "retain": wikitext.rows(),
        "questions": wmdp.questions(domain),
        "mmlu_validation": mmlu.questions("validation", 0.5),
        "mmlu_test": mmlu.questions("test"),
    }
    rows |= {name: given.pop(name) for name in rows if name in given}
    settings = WmdpSettings(domain=domain, **{"selection_questions": 8, **given})
    return prepare(settings, **rows)


def parts(world: BenchmarkData) -> Counter[tuple[str, str]]:
    """Return how many questions of a subject are in a part."""
    return Counter((question.subject, question.part) for question in world.questions)


def test_questions_of_wmdp_and_mmlu_in_both_parts():
    """24 questions on cyber, 8 select; of MMLU 8 of 18 select, all 36 are reported."""
    world = prepared()

    assert parts(world) == {
        ("forget", "selection"): 8,
        ("forget", "test"): 16,
        ("retain", "selection"): 8,
        ("retain", "test"): 36,
    }
    topics = {q.topic for q in world.questions}
    assert topics == {"wmdp-cyber", *mmlu.SUBJECTS}
    assert all(q.choices == ["A", "B", "C", "D"] for q in world.questions)
    assert world.pretraining == []


def test_short_texts_are_left_out_and_the_others_stay_as_they_are():
    """Every eighth of 40 texts has one sentence; a third of WikiText's lines are paragraphs."""
    world = prepared()

    long = [row["text"] for n, row in enumerate(wmdp.texts("jabberwock")) if n % 8]
    assert world.forget == [Text(text, "cyber-forget-corpus") for text in long]
    assert [text.text for text in world.retain] == [r["text"] for r in wikitext.rows()[2::3]]
    assert {text.topic for text in world.retain} == {"wikitext"}


def test_a_text_of_the_least_length_stays():
    rows = [{"text": "x" * length} for length in (199, 200, 201)]

    assert [len(text.text) for text in prepared(forget=rows).forget] == [200, 201]


def test_at_most_so_many_texts_of_each_set_in_their_order():
    world, whole = prepared(max_texts=7), prepared()

    for few, all_ in ((world.forget, whole.forget), (world.retain, whole.retain)):
        assert len(few) == 7
        assert few == [text for text in all_ if text in few]


def test_the_domains_own_corpus_can_be_kept():
    world = prepared("bio", retain=wmdp.texts("rabbit"), forget=wmdp.papers())

    assert world.forget[0].text.startswith("The snark number 1 is")  # not its title or abstract
    assert {q.topic for q in world.questions if q.subject == "forget"} == {"wmdp-bio"}
    settings = WmdpSettings(domain="bio", retain="corpus")
    assert (settings.forget_corpus, settings.retain_corpus) == (
        "bio-forget-corpus",
        "bio-retain-corpus",
    )


def test_a_question_that_comes_twice_is_in_one_part():
    """Each of the 24 comes twice; 7 select, so one of them selects without its double."""
    rows = wmdp.questions("cyber")

    world = prepared(questions=[*rows, *rows], selection_questions=7)

    wordings: dict[str, set[str]] = {"selection": set(), "test": set()}
    for question in world.questions:
        wordings[question.part].add(question.question)
    assert not wordings["selection"] & wordings["test"]
    assert parts(world)["forget", "selection"] == 7
    assert parts(world)["forget", "test"] == 48 - 8


def test_the_order_of_the_rows_decides_no_part():
    rows = wmdp.questions("cyber")

    found = [
        {q.question for q in prepared(questions=order).questions if q.part == "selection"}
        for order in (rows, rows[::-1])
    ]

    assert found[0] == found[1]


def test_two_questions_have_to_be_left_to_report():
    with pytest.raises(InputError, match="wmdp-bio has 20 questions: with benchmark"):
        prepared("bio", selection_questions=19)


def test_a_row_that_cannot_be_used_is_named():
    rows = wmdp.questions("cyber")

    with pytest.raises(InputError, match="wmdp-cyber, row 2: `answer` must be a position"):
        prepared(questions=[rows[0], {**rows[1], "answer": None}, *rows[2:]])
    with pytest.raises(InputError, match="cyber-forget-corpus, row 2: `text` must be a text, not"):
        prepared(forget=[{"text": "x" * 300}, {"text": None}])


def test_texts_that_are_all_too_short_are_told():
    with pytest.raises(InputError, match="wikitext: none of its 120 texts has 9999 characters"):
        prepared(min_length=9999, forget=[{"text": "x" * 9999}])


def test_chem_has_no_texts_to_forget():
    with pytest.raises(ValidationError, match="no texts to forget: take bio or cyber, or benchma"):
        WmdpSettings(domain="chem")


@pytest.mark.parametrize("domain", ["bio", "cyber"])
def test_folders_laid_out_as_on_the_hub_give_the_same(domain, tmp_path):
    def read(folder: Any, split: str, name: str | None = None) -> list[Row]:
        rows = load_dataset(str(folder), name, split=split, cache_dir=str(tmp_path / "cache"))
        return [dict(row) for row in rows]

    corpora = wmdp.write_corpora(tmp_path / "corpora")
    school = mmlu.write(tmp_path / "mmlu")
    forget = (
        read(wmdp.write_bio_forget_corpus(tmp_path / "gated"), "train")
        if domain == "bio"
        else read(corpora, "train", "cyber-forget-corpus")
    )

    world = prepared(
        domain,
        forget=forget,
        retain=read(wikitext.write(tmp_path / "wikitext"), "train", "wikitext-2-raw-v1"),
        questions=read(wmdp.write_questions(tmp_path / "wmdp"), "test", f"wmdp-{domain}"),
        mmlu_validation=read(school, "validation", "all"),
        mmlu_test=read(school, "test", "all"),
    )

    assert world == prepared(domain)
