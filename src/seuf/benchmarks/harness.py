"""Score questions through lm-evaluation-harness: what is reported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.models import LanguageModel


def score_questions(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, Any]]:
    """Return accuracy, its standard error and every answer, by subject (`forget`, `retain`).

    The harness gets the model in memory and a task made from the questions; its index of built-in
    tasks, which takes many seconds to read, is not loaded.

    Returns:
        For each subject `accuracy`, `standard_error` (of the mean, by the harness), `questions`
        (their number) and `answers`: position of the preferred choice of each question.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    subjects = sorted({question.subject for question in questions})
    asked = {s: [q for q in questions if q.subject == s] for s in subjects}
    results = evaluate(
        lm=HFLM(
            pretrained=subject_model.model,
            tokenizer=subject_model.tokenizer,
            batch_size=settings.batch_size,
            max_length=settings.max_length,
            softmax_dtype="float32",
        ),
        task_dict={s: _task(s, asked[s], settings.metric) for s in subjects},
        log_samples=True,
        bootstrap_iters=0,
    )
    return {s: _scores(results, s, asked[s], settings.metric) for s in subjects}


def _task(name: str, questions: Sequence[Question], metric: str) -> ConfigurableTask:
    rows = [question._asdict() for question in questions]
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: DatasetDict(test=Dataset.from_list(rows)),
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        }
    )


def _scores(
    results: dict[str, Any], name: str, questions: Sequence[Question], metric: str
) -> dict[str, Any]:
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return {
        "accuracy": results["results"][name][f"{metric},none"],
        "standard_error": results["results"][name][f"{metric}_stderr,none"],
        "questions": len(questions),
        "answers": [_preferred(s["filtered_resps"], q, metric) for s, q in zip(samples, questions, strict=True)],
    }


def _preferred(responses: list[tuple[float, bool]], question: Question, metric: str) -> int:
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in question.choices]
    values = [response[0] / length for response, length in zip(responses, lengths, strict=True)]
    return values.index(max(values))
