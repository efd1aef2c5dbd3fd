"""MMLU: what a model knows of 57 school subjects (Hendrycks et al. 2021, arXiv 2009.03300).

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

from seuf.benchmarks.drawing import FEWEST, at_most
from seuf.benchmarks.records import Question
from seuf.benchmarks.rows import Record
from seuf.benchmarks.templates import question, task
from seuf.errors import InputError


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
