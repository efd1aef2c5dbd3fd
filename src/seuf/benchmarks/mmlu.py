"""Multiple-choice questions as lm-evaluation-harness words them; MMLU's among them.

MMLU (Hendrycks et al. 2021, arXiv 2009.03300) asks about 57 school subjects. It asks for what must
stay, so utility is measured on it. Data:
https://huggingface.co/datasets/cais/mmlu, licence MIT, configuration `all`: 14,042 questions in
`test`, 1,531 in `validation` (at c30699e8356d).

The prompts come from the tasks of the installed lm-eval, zero shots, no chat template. A task is
given the study's records, so its own data set is not fetched. Prompts become part of the study's
questions.

1. Questions of `validation` choose the checkpoint, those of `test` are reported. One of
   `validation` that is worded as one of `test` is left out.
2. lm-eval's `mmlu` is the mean over questions, which is our accuracy. Topics are the school
   subjects, so the mean over these can be reported too.
3. With `reported`, school subjects are represented by their sizes: the mean estimates that over all
   questions, with its own standard error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from seuf.benchmarks.records import Question, Subject
from seuf.benchmarks.sampling import MIN_PER_PART, Record, sample_questions
from seuf.inputs import InputError

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

# lm-eval renders a row when it creates a task.
EXAMPLE = {"question": "?", "choices": ["1", "2", "3", "4"], "answer": 0, "subject": ""}
# Settings of a task, and the only value of each for which SEUF scores as lm-eval does.
SUPPORTED = {
    "output_type": "multiple_choice",
    "doc_to_target": "answer",
    "target_delimiter": " ",
    "num_fewshot": 0,
    "gen_prefix": None,
    "process_docs": None,
}


@cache
def lm_eval_task(group: str, name: str) -> ConfigurableTask:
    """Return one of lm-eval's tasks, without its data set.

    Args:
        group: The task's folder in lm_eval/tasks.
        name: The task's name.

    Raises:
        InputError: If lm-eval has no such task, or asks it in another way than SEUF does.
    """
    # imports torch, which takes seconds that other benchmarks do not need
    from lm_eval.tasks import TaskManager

    from datasets import Dataset, DatasetDict

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = _tasks_folder() / group
    manager = TaskManager(include_path=folder, include_defaults=False)
    if name not in manager.all_subtasks:
        raise InputError(f"lm-eval has no task {name!r} in {folder}.")
    rows = Dataset.from_list([EXAMPLE])
    # a task's configuration can be overridden only if it is loaded as a member of a group
    member = {"task": name, "custom_dataset": lambda **_: DatasetDict(test=rows, dev=rows)}
    task = manager.load({"group": group, "task": [member]})["tasks"][name]
    for key, value in SUPPORTED.items():
        if (actual := getattr(task.config, key)) not in (value, None):
            raise InputError(
                f"lm-eval's task {name!r} has {key} {actual!r}, where only {value!r} is supported: "
                "install a version in the range that SEUF asks for."
            )
    return task


def _tasks_folder() -> Path:
    import lm_eval

    return Path(lm_eval.__file__).parent / "tasks"


def lm_eval_question(
    task: ConfigurableTask, record: Record, *, where: str, subject: Subject, topic: str
) -> Question:
    """Return a record as lm-eval asks it, in the test part.

    Args:
        task: The task that words it.
        record: Has `question`, `choices` and `answer`, the position of the right one.
        where: The record's name in an error.
        subject: The question's subject.
        topic: The question's topic.

    Raises:
        InputError: If the record cannot be asked.
    """
    letters = task.doc_to_choice(EXAMPLE)
    if error := _error(record, len(letters)):
        raise InputError(f"{where}: {error}.")
    return Question(
        question=task.fewshot_context(record, 0),
        choices=letters,
        answer=record["answer"],
        topic=topic,
        subject=subject,
        part="test",
    )


def _error(record: Record, number: int) -> str | None:
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


def mmlu_questions(
    validation: Sequence[Record],
    test: Sequence[Record],
    selection: int,
    reported: int | None = None,
) -> list[Question]:
    """Return MMLU's questions, the selection part first.

    Args:
        validation: Rows with `question`, `subject`, `choices` and `answer`.
        test: The same.
        selection: Maximum number of questions of `validation` that choose the checkpoint.
        reported: Number of questions of `test` that are reported; by default all.

    Raises:
        InputError: For the first row that cannot be used; if there are too few.
    """
    in_test, in_validation = _of_split("test", test), _of_split("validation", validation)
    prompts = {question.question for question in in_test}
    chosen = sample_questions(selection, [q for q in in_validation if q.question not in prompts])
    asked = sample_questions(reported, in_test)
    for split, questions, needed in (
        ("test", asked, reported or MIN_PER_PART),
        ("validation", chosen, MIN_PER_PART),
    ):
        if len(questions) < needed:
            raise InputError(
                f"MMLU's {split} split gives {len(questions)} questions, {needed} are needed."
            )
    return [question._replace(part="selection") for question in chosen] + asked


def _of_split(split: str, records: Sequence[Record]) -> list[Question]:
    """Return the rows of a split as questions, in their order."""
    return [
        lm_eval_question(
            lm_eval_task("mmlu/default", f"mmlu_{record['subject']}"),
            record,
            where=f"MMLU's {split} split, row {number}",
            subject="retain",
            topic=record["subject"],
        )
        for number, record in enumerate(records, 1)
    ]
