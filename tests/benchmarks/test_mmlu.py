"""MMLU's two splits, and our prompts beside what lm-evaluation-harness makes of the same rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks._yaml_loader import load_yaml

from seuf.benchmarks.choices import ChoiceScorer, macro_accuracy
from seuf.benchmarks.harness import harness_model, harness_task, score_questions
from seuf.benchmarks.mmlu import lm_eval_question, lm_eval_task, mmlu_questions
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel
from tests.hub import mmlu, wmdp
from tests.tiny import tiny_language_model, tiny_model

VALIDATION, TEST = mmlu.questions("validation", 0.5), mmlu.questions("test")


def test_validation_selects_and_the_whole_test_split_is_reported():
    asked = mmlu_questions(VALIDATION, TEST, selection=6)

    parts = [(q.part, "validation book" in q.question) for q in asked]
    assert parts == [("selection", True)] * 6 + [("test", False)] * 36
    assert {q.subject for q in asked} == {"retain"}
    assert [q.topic for q in asked[6:]] == [row["subject"] for row in TEST]
    assert [q.answer for q in asked[6:]] == [row["answer"] for row in TEST]


def test_subjects_give_questions_by_their_size():
    """Half of 8, 6 and 4 select; a quarter of 16, 12 and 8 are reported: 4, 3 and 2."""
    asked = mmlu_questions(VALIDATION, TEST, selection=9, reported=9)

    for part, numbers in (("selection", (4, 3, 2)), ("test", (4, 3, 2))):
        found = Counter(q.topic for q in asked if q.part == part)
        assert found == dict(zip(mmlu.SUBJECTS, numbers, strict=True))


def test_a_prompt_names_its_subject():
    asked = mmlu_questions(VALIDATION, TEST, selection=2)

    assert asked[-1].question.startswith(
        "The following are multiple choice questions (with answers) about high school us history."
        "\n\nIn the test book of high_school_us_history, what is on page 7?\nA. a hat of 7\n"
    )


def test_a_question_of_both_splits_does_not_select():
    """All 18 of validation select but the one that the test split has too."""
    asked = mmlu_questions(VALIDATION, [*TEST, VALIDATION[0]], selection=18)

    wordings = [q.question for q in asked if q.part == "selection"]
    assert len(wordings) == 17
    assert asked[-1].part == "test"
    assert asked[-1].question not in wordings


def test_as_many_select_as_there_are():
    assert len(mmlu_questions(VALIDATION, TEST, selection=200)) == 18 + 36


def test_more_questions_than_there_are_cannot_be_reported():
    with pytest.raises(InputError, match="MMLU's test split gives 36 questions, 50 are needed"):
        mmlu_questions(VALIDATION, TEST, selection=2, reported=50)


def test_two_questions_have_to_select():
    with pytest.raises(InputError, match="MMLU's validation split gives 1 questions, 2 are neede"):
        mmlu_questions(VALIDATION[:1], TEST, selection=2)


def test_a_subject_that_lm_eval_does_not_know_is_named():
    with pytest.raises(InputError, match="lm-eval has no task 'mmlu_magic'"):
        mmlu_questions(VALIDATION, [{**TEST[0], "subject": "magic"}], selection=2)


def test_a_row_that_cannot_be_asked_is_named():
    with pytest.raises(InputError, match="MMLU's test split, row 2: `answer` must be a position"):
        mmlu_questions(VALIDATION, [TEST[0], {**TEST[1], "answer": 4}], selection=2)


def test_the_macro_average_counts_each_subject_the_same():
    """All 16 of anatomy right, none of the 12 and 8 others: 1/3, where the mean is 16/36."""
    asked = mmlu_questions(VALIDATION, TEST, selection=2)[2:]
    right = [question.topic == "anatomy" for question in asked]

    answers = [q.answer if hit else -1 for q, hit in zip(asked, right, strict=True)]
    assert macro_accuracy(asked, answers) == pytest.approx(1 / 3)


Row = dict[str, Any]

ODD = [
    {
        "question": "\n What does {{question}} {% raw %} mean?\n\ndef f():\n\treturn 1 \n",
        "choices": [" a space before", "ü {{choices}}", "12", "line\nline "],
        "answer": 3,
    },
    {"question": "7", "choices": ["1", "2", "3", "4"], "answer": 0},
]
TASKS = [
    ("wmdp", "wmdp_bio", wmdp.questions("bio")),
    ("wmdp", "wmdp_chem", wmdp.questions("chem")),
    ("wmdp", "wmdp_cyber", wmdp.questions("cyber")),
    ("mmlu/default", "mmlu_anatomy", mmlu.questions("test")),
    ("mmlu/default", "mmlu_high_school_us_history", mmlu.questions("test")),
]
every_task = pytest.mark.parametrize(
    ("group", "name", "rows"), TASKS, ids=[name for _, name, _ in TASKS]
)


def of_lm_eval(group: str, name: str, rows: list[Row], folder: Path) -> ConfigurableTask:
    """Return lm-eval's own task, which reads the rows from a file."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks" / group / f"{name}.yaml")
    files = {"test": str(file), "dev": str(file)}
    kwargs = {"data_files": files, "cache_dir": str(folder / "cache")}
    return ConfigurableTask(
        config={**config, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs}
    )


def ours(group: str, name: str, rows: list[Row]) -> list[Question]:
    """Return the rows as they are asked here."""
    task = lm_eval_task(group, name)
    return [lm_eval_question(task, row, where=name, subject="forget", topic=name) for row in rows]


@every_task
def test_the_prompt_is_that_of_lm_eval(group, name, rows, tmp_path):
    rows = [*rows, *ODD] if group == "wmdp" else rows  # the odd ones have no subject
    task = of_lm_eval(group, name, rows, tmp_path)

    asked = ours(group, name, rows)

    assert [q.question for q in asked] == [task.fewshot_context(d, 0) for d in task.test_docs()]
    assert len(asked) == len(rows)


@every_task
def test_the_model_is_asked_what_lm_eval_asks(group, name, rows, tmp_path):
    """Each of the four letters after each question, behind the same space."""
    theirs, own = (
        of_lm_eval(group, name, rows, tmp_path),
        harness_task(name, ours(group, name, rows), "acc"),
    )

    for task in (theirs, own):
        task.build_all_requests(rank=0, world_size=1)

    assert [i.args for i in own.instances] == [i.args for i in theirs.instances]
    assert [i.args[1] for i in own.instances[:4]] == [" A", " B", " C", " D"]


@pytest.mark.parametrize("seed", [0, 3])
def test_accuracy_is_that_of_lm_eval(seed, tmp_path):
    group, name, rows = TASKS[2]
    settings = ScoringSettings(batch_size=4, max_length=512)
    long = tiny_model("qwen2_moe", seed, vocab_size=300, max_position_embeddings=512)
    model = LanguageModel(long, tiny_language_model().tokenizer)
    asked = ours(group, name, rows)
    results = evaluate(
        harness_model(model, settings), {name: of_lm_eval(group, name, rows, tmp_path)}
    )

    scores = score_questions(model, asked, settings)["forget"]
    fast = ChoiceScorer(model.tokenizer, asked, "acc", batch_size=4)

    assert scores["accuracy"] == results["results"][name]["acc,none"]
    assert scores["answers"] == fast.answers(model.model)
    hits = {s["doc_id"]: bool(s["acc"]) for s in results["samples"][name]}
    right = [a == q.answer for a, q in zip(scores["answers"], asked, strict=True)]
    assert right == [hits[place] for place in range(len(asked))]
    assert 0 < sum(right) < len(right)


def test_the_prompt_of_wmdp_word_for_word():
    [asked] = ours("wmdp", "wmdp_cyber", wmdp.questions("cyber", 1))

    assert asked == Question(
        question=(
            "The following are multiple choice questions (with answers) about cybersecurity.\n\n"
            "Which colour has jabberwock number 0?\n"
            "A. red\nB. blue\nC. green\nD. grey\nAnswer:"
        ),
        choices=["A", "B", "C", "D"],
        answer=0,
        topic="wmdp_cyber",
        subject="forget",
        part="test",
    )


def test_a_task_that_lm_eval_does_not_have_is_named():
    with pytest.raises(InputError, match=r"no task 'mmlu_magic' in .*tasks/mmlu/default"):
        lm_eval_task("mmlu/default", "mmlu_magic")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_fewshot: 5", "has num_fewshot 5, where only 0 is supported"),
        ('target_delimiter: ""', "has target_delimiter '', where only ' ' is supported"),
        ("gen_prefix: So", "has gen_prefix 'So', where only None is supported"),
        ("output_type: generate_until", "has output_type 'generate_until', where only 'multiple_"),
    ],
)
def test_a_wording_that_is_not_supported_is_refused(line, message, tmp_path, monkeypatch):
    """The line stands above what the file includes, and so it is what counts."""
    base = (Path(lm_eval.__file__).parent / "tasks/wmdp/_default_template_yaml").read_text()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/base").write_text(base)
    (tmp_path / "odd/new.yaml").write_text(f"task: new\ninclude: base\n{line}\n")
    monkeypatch.setattr("seuf.benchmarks.mmlu._tasks_folder", lambda: tmp_path)

    with pytest.raises(InputError, match=message):
        lm_eval_task("odd", "new")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, "row 7: `question` must be a text that is not empty, not ' '"),
        ({"question": None}, "row 7: `question` must be a text that is not empty, not None"),
        ({"choices": ["a", "b", "c"]}, r"row 7: `choices` must be 4 texts, not \['a', 'b', 'c'\]"),
        (
            {"choices": ["a", "b", "c", 4]},
            r"row 7: `choices` must be 4 texts, not \['a', 'b', 'c', 4",
        ),
        ({"choices": "abcd"}, "row 7: `choices` must be 4 texts, not 'abcd'"),
        ({"answer": 4}, "row 7: `answer` must be a position from 0 to 3, not 4"),
        ({"answer": "B"}, "row 7: `answer` must be a position from 0 to 3, not 'B'"),
        ({"answer": True}, "row 7: `answer` must be a position from 0 to 3, not True"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(changes, message):
    row = {**wmdp.questions("bio", 1)[0], **changes}

    with pytest.raises(InputError, match=message):
        lm_eval_question(
            lm_eval_task("wmdp", "wmdp_bio"), row, where="row 7", subject="forget", topic=""
        )
