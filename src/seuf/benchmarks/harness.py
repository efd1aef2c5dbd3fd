"""Score multiple-choice questions through lm-evaluation-harness, for what is reported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from io import TextIOBase
from itertools import chain
from typing import Any, TextIO

from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from datasets import Dataset, DatasetDict
from seuf.benchmarks.choices import (
    cut_question,
    encode_choices,
    encode_pairs,
    macro_accuracy,
    preferred_choice,
    with_spaces_moved,
)
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings, warn_of_cut
from seuf.moe.architectures import check_positions
from seuf.moe.backoff import Backoff
from seuf.moe.loading import LanguageModel
from seuf.moe.sharding import in_turn, replicas


def score_questions(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, Any]]:
    """Return accuracy, its standard error and every answer, by `Question.scored_as`.

    The harness gets the model in memory and a task made of the questions; its index of built-in
    tasks, which takes many seconds to read, is not loaded. If memory runs out, scoring starts again
    with half as many sequences at once.

    Returns:
        For each name `accuracy`, `standard_error` (by the harness), `macro_accuracy` (the mean over
        topics, each counting the same), `questions` (their number) and `answers` (the position of
        the preferred choice of each question).
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    choices = [encode_choices(subject_model.tokenizer, question) for question in questions]
    check_positions(
        subject_model.model,
        [(*c.context, *c.continuation)[: settings.max_length] for of in choices for c in of],
        "set evaluation.max_length to {} or less",
    )
    for of_question in choices:
        for choice in of_question:
            cut_question(choice, settings.max_length)  # a clear error where the harness asserts
    longest = [max((choice.input_ids for choice in of), key=len) for of in choices]
    warn_of_cut(longest, settings.max_length)
    names = sorted({question.scored_as() for question in questions})
    asked = {name: [q for q in questions if q.scored_as() == name] for name in names}

    def evaluate_at_once(batch_size: int) -> dict[str, Any] | None:
        model = harness_model(subject_model, settings.model_copy(update={"batch_size": batch_size}))
        tasks = {n: harness_task(n, asked[n], settings.metric) for n in names}
        # the harness's progress bars cannot be turned off; keep them out of logs
        bars = nullcontext() if sys.stderr.isatty() else redirect_stderr(WithoutBars(sys.stderr))
        # the standard error of a mean is exact; with 0 draws the harness would leave it out
        with bars:
            return evaluate(model, tasks, bootstrap_iters=1)

    backoff = Backoff("lower evaluation.max_length")
    results = backoff.call(settings.batch_size, evaluate_at_once)
    assert results is not None  # the harness returns None only in processes after the first
    return {n: _scores(results, n, asked[n], settings.metric) for n in names}


class WithoutBars(TextIOBase):
    """A stream that drops progress bars, which begin with a carriage return."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.after_bar = stream, False

    def write(self, text: str) -> int:
        """Write the text unless it is a bar or the end of a bar's line."""
        if text.startswith("\r"):
            self.after_bar = not text.endswith("\n")
        elif self.after_bar and text == "\n":
            self.after_bar = False
        else:
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


class SameTokens(HFLM):
    """The harness's model, with questions and choices tokenized as during training."""

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        pair = with_spaces_moved(context, continuation)
        choice = encode_pairs(self.tokenizer, [pair])[0]
        return list(choice.context), list(choice.continuation)

    def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **options: Any) -> list[Any]:
        """Answer the requests; replicas take turns at the batches that one process would make.

        Like the harness, it groups requests that differ in their last token alone, and sorts the
        groups by length and tokens.
        """
        answer = super()._loglikelihood_tokens
        if replicas() == 1:
            return answer(requests, *args, **options)
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, (_, context, continuation) in enumerate(requests):
            groups.setdefault((*context, *continuation[:-1]), []).append(position)

        def longest_first(group: list[int]) -> tuple[int, tuple[int, ...]]:
            _, context, continuation = requests[group[0]]
            return -len(context) - len(continuation), (*context, *continuation)

        ordered, size = sorted(groups.values(), key=longest_first), int(self.batch_size)
        batches = [
            [position for group in ordered[start : start + size] for position in group]
            for start in range(0, len(ordered), size)
        ]
        answers = in_turn(batches, lambda batch: answer([requests[i] for i in batch], True))
        of_position = dict(zip(chain(*batches), chain(*answers), strict=True))
        return [of_position[position] for position in range(len(requests))]


def harness_model(subject_model: LanguageModel, settings: ScoringSettings) -> HFLM:
    """Return the model wrapped for the harness."""
    return SameTokens(
        pretrained=subject_model.model,
        tokenizer=subject_model.tokenizer,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        softmax_dtype="float32",
    )


def harness_task(name: str, questions: Sequence[Question], metric: str) -> ConfigurableTask:
    """Return the questions as a task of the harness."""
    rows = [question._asdict() for question in questions]
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: DatasetDict(test=Dataset.from_list(rows)),
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "question",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        }
    )


def _scores(
    results: dict[str, Any], name: str, questions: Sequence[Question], metric: str
) -> dict[str, Any]:
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    answers = []
    for sample, question in zip(samples, questions, strict=True):
        likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
        answers.append(preferred_choice(likelihoods, question, metric))
    return {
        "accuracy": results["results"][name][f"{metric},none"],
        "standard_error": results["results"][name][f"{metric}_stderr,none"],
        "macro_accuracy": macro_accuracy(questions, answers),
        "questions": len(questions),
        "answers": answers,
    }
