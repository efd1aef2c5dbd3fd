"""Multiple-choice questions, worded as lm-evaluation-harness words those of its own tasks.

The task's YAML files are taken from the lm-eval that is installed, which is not imported: that
takes seconds. A test holds the prompts to what lm-eval makes of the same files (0.4.13). Zero
shots, no chat template. The prompt goes into the study's questions as it is asked.

MMLU: what a model knows of 57 school subjects (Hendrycks et al. 2021, arXiv 2009.03300).

Data: https://huggingface.co/datasets/cais/mmlu, licence MIT, configuration `all`: 14,042 questions
in `test`, 1,531 in `validation` (at c30699e8356d). Worded and scored as lm-evaluation-harness does
in its group `mmlu`, zero shots, see `templates`. Questions ask what must stay, so they are what
utility is measured on.

1. `validation` selects, `test` is reported. A question of `validation` that is worded as one of
   `test` does not select.
2. lm-eval's `mmlu` is the mean over questions, which is our accuracy; the topics are the subjects,
   so the mean over these can be told too.
3. With `reported`, each subject gives questions by its size: the mean over questions then estimates
   that over all of them, with its own standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import BaseLoader, Environment, StrictUndefined, Template

from seuf.benchmarks.records import Question, Subject
from seuf.benchmarks.sampling import FEWEST, Record, at_most
from seuf.inputs import InputError

# lm_eval/utils.py: the environment in which lm-eval renders
_ENVIRONMENT = Environment(
    loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
)
# What a file may say beside the wording, and the one value that is understood here.
UNDERSTOOD = {
    "output_type": "multiple_choice",
    "doc_to_target": "answer",
    "target_delimiter": " ",
    "num_fewshot": 0,
    "gen_prefix": None,
    "process_docs": None,
}


class Task(NamedTuple):
    """How lm-eval words the questions of one of its tasks.

    Attributes:
        description: What stands before a question.
        text: The question with its choices.
        choices: What is scored: their letters.
    """

    description: Template
    text: Template
    choices: list[str]


@cache
def task(group: str, name: str) -> Task:
    """Return one of lm-eval's tasks.

    Args:
        group: Its folder in lm_eval/tasks.
        name: The name of its file.

    Raises:
        InputError: If lm-eval has no such task, or words it in a way that is not understood.
    """
    path = _tasks() / group / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"lm-eval has no task {name!r}: there is no {path}.")
    config = _config(path)
    for key, value in UNDERSTOOD.items():
        if (came := config.get(key, value)) not in (value, None):
            raise InputError(
                f"lm-eval's task {name!r} has {key} {came!r}, where only {value!r} is understood: "
                "install a version in the range that SEUF asks for."
            )
    description, text = (
        _ENVIRONMENT.from_string(config.get(key, "")) for key in ("description", "doc_to_text")
    )
    return Task(description, text, config["doc_to_choice"])


def question(task: Task, record: Record, *, where: str, subject: Subject, topic: str) -> Question:
    """Return a record as lm-eval asks it, in the test part.

    Args:
        task: How it is worded.
        record: With `question`, `choices` and `answer`, the position of the right one.
        where: What the record is called in an error.
        subject: Whose knowledge it asks for.
        topic: What it is about.

    Raises:
        InputError: If the record cannot be asked.
    """
    if fault := _fault(record, len(task.choices)):
        raise InputError(f"{where}: {fault}.")
    return Question(
        question=task.description.render(**record) + task.text.render(**record),
        choices=task.choices,
        answer=record["answer"],
        topic=topic,
        subject=subject,
        part="test",
    )


def _fault(record: Record, number: int) -> str | None:
    """Return what is wrong with a record, None if nothing is."""
    question, choices, answer = (record.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        return f"`question` must be a text that is not empty, not {question!r}"
    texts = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
    if not texts or len(choices or []) != number:
        return f"`choices` must be {number} texts, not {choices!r}"
    if type(answer) is not int or not 0 <= answer < number:
        return f"`answer` must be a position from 0 to {number - 1}, not {answer!r}"
    return None


def _tasks() -> Path:
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise InputError("lm-eval is not installed: pip install lm-eval.")
    return Path(found.submodule_search_locations[0], "tasks")


def _config(path: Path) -> dict[str, Any]:
    """Return what a task's file says, on top of the file that it includes."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    included = config.pop("include", None)
    return {**_config(path.parent / included), **config} if included else config


def questions(
    validation: Sequence[Record],
    test: Sequence[Record],
    selection: int,
    reported: int | None = None,
) -> list[Question]:
    """Return the questions that select, then those that are reported.

    Args:
        validation: Rows with `question`, `subject`, `choices` and `answer`.
        test: The same.
        selection: How many of `validation` select, at most.
        reported: How many of `test` are reported; by default all.

    Raises:
        InputError: For the first row that cannot be used; if there are too few.
    """
    reportable = _worded("test", test)
    known = {asked.question for asked in reportable}
    selecting = [q for q in _worded("validation", validation) if q.question not in known]
    chosen, asked = at_most(selection, selecting), at_most(reported, reportable)
    _check("test", len(asked), reported or FEWEST)
    _check("validation", len(chosen), FEWEST)
    return [q._replace(part="selection") for q in chosen] + asked


def _worded(split: str, records: Sequence[Record]) -> list[Question]:
    """Return the rows of a split as questions, in their order."""
    return [
        question(
            task("mmlu/default", f"mmlu_{record['subject']}"),
            record,
            where=f"MMLU's {split} split, row {number}",
            subject="retain",
            topic=record["subject"],
        )
        for number, record in enumerate(records, 1)
    ]


def _check(split: str, count: int, wanted: int) -> None:
    if count < wanted:
        raise InputError(f"MMLU's {split} split gives {count} questions, {wanted} are needed.")
