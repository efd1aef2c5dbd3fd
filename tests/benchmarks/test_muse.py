"""MUSE, in the layout of its repository on the hub."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kedro_dvc.project import load_config
from seuf.benchmarks.muse import SETS, MuseSettings, prepare
from seuf.benchmarks.records import BenchmarkData
from seuf.datasets.records import RecordsDataset
from seuf.inputs import InputError
from tests.hub import muse as hub

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder laid out as MUSE's repository."""
    return hub.write(tmp_path_factory.mktemp("muse"))


@pytest.fixture
def sets(folder) -> dict[str, Rows]:
    """Return the rows of every set, read file by file."""
    return {name: read(folder, *name.split("_", 1)) for name in SETS}


def read(folder: Path, subset: str, split: str) -> Rows:
    """Return the rows of one file."""
    table = pd.read_parquet(folder / subset / f"{split}-00000-of-00001.parquet")
    return table.to_dict("records")


def prepared(sets: dict[str, Rows], **changes: Any) -> BenchmarkData:
    """Return MUSE with 4 questions of each kind for selection, unless told otherwise."""
    return prepare(MuseSettings(**{"selection_questions": 4, **changes}), **sets)


def test_every_set_in_the_catalog_is_read_from_a_folder(folder, sets, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    catalog = load_config(Path(__file__).parents[2], "base")["catalog"]
    assert {f"muse_{name}" for name in SETS} == {n for n in catalog if n.startswith("muse_")}

    for name, columns in SETS.items():
        entry = catalog[f"muse_{name}"]
        assert entry["fields"] == list(columns)
        assert entry["hub"].pop("repo") == "muse-bench/MUSE-News"
        found = RecordsDataset(fields=entry["fields"], hub={**entry["hub"], "repo": str(folder)})
        assert found.load() == sets[name]


def test_what_unlearning_keeps_is_not_what_is_asked(sets):
    """`retain1` is for unlearning, the questions and passages are of `retain2`."""
    world = prepared(sets)

    assert [t.text for t in world.forget] == [r["text"] for r in sets["raw_forget"]]
    assert [t.text for t in world.retain] == [r["text"] for r in sets["raw_retain1"]]
    assert [t.text for t in world.pretraining[24:]] == [r["text"] for r in sets["raw_retain2"]]
    assert world.pretraining[:24] == [*world.forget, *world.retain]


def test_no_text_to_keep_shares_a_topic_with_one_to_forget(sets):
    """A reference model leaves out all that shares a topic with the forget set."""
    assert {text.topic for text in prepared(sets).pretraining} == {""}


def test_a_long_text_is_cut_and_no_word_is_lost(sets):
    """20 words in pieces of 8: 8, 8 and 4; the line's end inside a piece stays."""
    book = "\n".join(f"word{n} follows" for n in range(10))

    pieces = [
        t.text for t in prepared({**sets, "raw_forget": [{"text": book}]}, text_words=8).forget
    ]

    assert [len(piece.split()) for piece in pieces] == [8, 8, 4]
    assert pieces[0] == "word0 follows\nword1 follows\nword2 follows\nword3 follows"
    assert " ".join(pieces).split() == book.split()


def test_a_question_comes_after_ten_answered_ones(sets):
    """As muse_bench writes them: two lines each, an empty one between, and a space at the end."""
    first = prepared(sets).questions[0]
    shots = sets["knowmem_forget_qa_icl"]

    prompt = first.question + first.opening
    assert prompt.startswith(
        f"Question: {shots[0]['question']}\nAnswer: {shots[0]['answer']}\n\nQuestion: "
    )
    assert prompt.endswith("\n\nQuestion: What does Forgetham 0 make?\nAnswer: ")
    assert prompt.count("Question: ") == 11
    assert (first.reference, first.kind, first.choices, first.answer) == (
        "Clocks",
        "knowledge",
        [],
        -1,
    )


def test_each_sets_questions_come_after_its_own_answered_ones(sets):
    retain = [q for q in prepared(sets).questions if q.subject == "retain"]

    assert len(retain) == hub.QUESTIONS
    assert all("Forgetham" not in question.question for question in retain)
    assert all(question.kind == "knowledge" for question in retain)


def test_a_verbatim_probe_is_a_beginning_with_what_follows(sets):
    probes = [q for q in prepared(sets).questions if q.kind == "verbatim"]

    assert [(q.question, q.opening, q.reference) for q in probes] == [
        (row["prompt"], "", row["gt"]) for row in sets["verbmem_forget"]
    ]
    assert {question.subject for question in probes} == {"forget"}


def test_a_hash_decides_which_questions_select(sets):
    """4 of 12 of each kind and subject; rows in another order are in the same parts."""
    questions = prepared(sets).questions
    turned = prepared(
        {name: rows[::-1] for name, rows in sets.items() if "icl" not in name}
        | {name: rows for name, rows in sets.items() if "icl" in name}
    ).questions

    assert Counter((q.kind, q.subject, q.part) for q in questions) == {
        ("knowledge", "forget", "selection"): 4,
        ("knowledge", "forget", "test"): 8,
        ("knowledge", "retain", "selection"): 4,
        ("knowledge", "retain", "test"): 8,
        ("verbatim", "forget", "selection"): 4,
        ("verbatim", "forget", "test"): 8,
    }
    assert set(map(str, questions)) == set(map(str, turned))


def test_the_same_question_twice_is_in_one_part(sets):
    doubled = sets["knowmem_forget_qa"] * 2
    world = prepared({**sets, "knowmem_forget_qa": doubled})
    asked = [q for q in world.questions if (q.kind, q.subject) == ("knowledge", "forget")]

    parts = {part: {q.question for q in asked if q.part == part} for part in ("selection", "test")}

    assert len(asked) == 24
    assert [len(found) for found in parts.values()] == [4, 8]
    assert not parts["selection"] & parts["test"]


def test_passages_are_of_three_groups(sets):
    passages = prepared(sets).passages

    assert Counter(passage.group for passage in passages) == dict.fromkeys(
        ("forget", "retain", "holdout"), 8
    )
    assert passages[0].text == sets["privleak_forget"][0]["text"]
    assert passages[-1].text == sets["privleak_holdout"][-1]["text"]


def test_questions_must_be_left_to_be_reported(sets):
    with pytest.raises(
        InputError, match=r"selection_questions is 11; MUSE's knowmem_forget_qa has 12 different"
    ):
        prepared(sets, selection_questions=11)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Once"}, r"verbmem_forget, row 2: `gt` must be a text .* has 'prompt'\."),
        ({"prompt": "Once", "gt": " "}, r"verbmem_forget, row 2: `gt` must be a text"),
        ({"prompt": None, "gt": "upon"}, r"verbmem_forget, row 2: `prompt` must be a text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(sets, row, message):
    broken = [sets["verbmem_forget"][0], row]

    with pytest.raises(InputError, match=message):
        prepared({**sets, "verbmem_forget": broken})


def test_a_set_without_rows_is_named(sets):
    with pytest.raises(InputError, match="MUSE's privleak_holdout has no rows"):
        prepared({**sets, "privleak_holdout": []})
