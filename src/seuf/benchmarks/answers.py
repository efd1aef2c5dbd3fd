"""Ask in a chat model's own form.

How much of a reference an answer holds: ROUGE-L (Lin 2004), in the variants that are published.

The variants give different numbers for the same pair, so each benchmark has its own (see `kinds`).

A mean, and how far it may be from that of all there is.

What a model says: greedy answers to prompts, many at a time.

Score free answers: what a model says, beside the answer it should (or should no longer) know.

Each kind of probe has its own prompt, length and measure, see `kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from rouge import Rouge

from seuf.benchmarks.records import ANSWER_KINDS, AnswerKind, Question
from seuf.inputs import InputError
from seuf.moe.architectures import check_positions, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, pad

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from transformers import PreTrainedTokenizerBase

    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a user's turn and the beginning of the answer, as the model's chat template has them.

    The tokenizer is given the prompt as it is: where it puts the token of the beginning before
    every text, the prompt comes without.

    Raises:
        InputError: If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "The model's tokenizer has no chat template: it is no chat model, or its "
            "chat_template.jinja is missing."
        )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # where a template knows it: the answer is what is scored
    )
    assert isinstance(prompt, str)
    beginning = tokenizer.bos_token_id
    if beginning is not None and tokenizer(prompt)["input_ids"][:2] == [beginning, beginning]:
        return prompt.removeprefix(str(tokenizer.bos_token))
    return prompt


_PLTRDY = Rouge(metrics=["rouge-l"], stats=["r"])


def rouge_l_recall(reference: str, answer: str) -> float:
    """Return the share of the reference's words that the answer has too, in the same order.

    Words are compared by their stems, as TOFU and open-unlearning (d3d7cf9) do.
    """
    return _scorer(stems=True).score(reference, answer)["rougeL"].recall


def rouge_l_f1(reference: str, answer: str) -> float:
    """Return the harmonic mean of recall and precision, without stems, as MUSE has it."""
    return _scorer(stems=False).score(reference, answer)["rougeL"].fmeasure


def rouge_l_recall_pltrdy(reference: str, answer: str) -> float:
    """Return the recall of the package `rouge`, which RWKU (b8a03b3) uses.

    It splits sentences at full stops, words at spaces, and counts a word's place once: `Paris` and
    `Paris,` are two words. An answer without a word recalls nothing.
    """
    if not answer.replace(".", " ").split() or not reference.replace(".", " ").split():
        return 0.0
    return _PLTRDY.get_scores(answer, reference)[0]["rouge-l"]["r"]


MEASURES: dict[str, Callable[[str, str], float]] = {
    "rouge_l_recall": rouge_l_recall,
    "rouge_l_f1": rouge_l_f1,
    "rouge_l_recall_pltrdy": rouge_l_recall_pltrdy,
}


@cache
def _scorer(*, stems: bool) -> RougeScorer:
    # brings nltk, for which a stage without free answers need not wait
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stems)


def mean_with_error(values: Sequence[float]) -> dict[str, float]:
    """Return the mean of some values as `value`, and its `standard_error`; 0 for a single one."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"value": mean(values), "standard_error": error}


SHORTER = "lower evaluation.max_length or evaluation.max_new_tokens"


@torch.no_grad()
def greedy_answers(
    subject_model: LanguageModel,
    prompts: Sequence[str],
    settings: ScoringSettings,
    tokens: int | None = None,
) -> list[str]:
    """Return what the model most likely says after each prompt, up to its end token.

    A prompt longer than `max_length` loses its beginning.

    Args:
        subject_model: The model.
        prompts: What it is given, each with the spaces it ends in.
        settings: Sequences at once, and the longest prompt.
        tokens: In an answer at most; by default the settings' number.
    """
    encoded = subject_model.tokenizer(list(prompts))["input_ids"]
    rows = [ids[-settings.max_length :] for ids in encoded]
    new = tokens or settings.max_new_tokens
    whole = [range(len(row) + new) for row in rows]
    check_positions(subject_model.model, whole, "a prompt and its answer must have {} or less")
    order = sorted(range(len(rows)), key=lambda position: len(rows[position]))
    answers, backoff = [""] * len(rows), Backoff(SHORTER)

    def say(positions: Sequence[int]) -> list[str]:
        batch = _left_padded([rows[position] for position in positions], subject_model.padding)
        return _said(subject_model, batch, new)

    for start in range(0, len(order), settings.batch_size):
        for positions, said in backoff.parts(order[start : start + settings.batch_size], say):
            for position, answer in zip(positions, said, strict=True):
                answers[position] = answer
    return answers


def _said(subject_model: LanguageModel, batch: Batch, tokens: int) -> list[str]:
    model: Any = subject_model.model
    device = input_device(model)
    generated = model.generate(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # some chat models bring one: it would no longer be greedy
        max_new_tokens=tokens,
        pad_token_id=subject_model.padding,
    )
    new = generated[:, batch.input_ids.shape[1] :]
    return subject_model.tokenizer.batch_decode(new, skip_special_tokens=True)


def _left_padded(rows: Sequence[Sequence[int]], padding: int) -> Batch:
    """Return the rows as one batch (B, T), each ending at its last token."""
    mirrored = pad([row[::-1] for row in rows], padding)
    return Batch(mirrored.input_ids.flip(1), mirrored.attention_mask.flip(1))


def score_answers(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return how well the greedy answers hold their references, by subject and kind of probe.

    Returns:
        For each subject (`forget`, `retain`) and kind `measure`, `value` (its mean),
        `standard_error` (of the mean), `questions` (their number) and `answers`: the text of each,
        in the order of the questions.
    """
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.subject, question.kind), []).append(question)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (subject, kind), asked in sorted(groups.items()):
        answers = free_answers(subject_model, asked, ANSWER_KINDS[kind], settings)
        values = measured(subject_model, asked, answers, ANSWER_KINDS[kind], settings)
        scores.setdefault(subject, {})[kind] = _scores(values, answers, ANSWER_KINDS[kind])
    return scores


def free_answers(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    kind: AnswerKind,
    settings: ScoringSettings,
) -> list[str]:
    """Return the greedy answers to questions of one kind."""
    prompts = [_prompt(subject_model, question, kind) for question in questions]
    tokens = _tokens(kind, settings)
    return [_cut(a, kind.stop) for a in greedy_answers(subject_model, prompts, settings, tokens)]


def measured(
    subject_model: LanguageModel,
    questions: Sequence[Question],
    answers: Sequence[str],
    kind: AnswerKind,
    settings: ScoringSettings,
) -> list[float]:
    """Return what each answer to questions of one kind is measured at."""
    references = [question.reference for question in questions]
    if not kind.whole:
        tokenizer: Any = subject_model.tokenizer
        rows = tokenizer(references, add_special_tokens=False)["input_ids"]
        cut = [ids[: _tokens(kind, settings)] for ids in rows]
        references = tokenizer.batch_decode(cut, skip_special_tokens=True)
    measure = MEASURES[kind.measure]
    return [measure(held, answer) for held, answer in zip(references, answers, strict=True)]


def _tokens(kind: AnswerKind, settings: ScoringSettings) -> int:
    return kind.max_new_tokens or settings.max_new_tokens


def _prompt(subject_model: LanguageModel, question: Question, kind: AnswerKind) -> str:
    tokenizer: Any = subject_model.tokenizer
    if not (kind.chat and tokenizer.chat_template):
        return question.question + question.opening
    return chat_prompt(tokenizer, question.question) + question.opening


def _cut(answer: str, stops: Sequence[str]) -> str:
    """Return the answer up to the first of the stops."""
    ends = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(ends, default=len(answer))].strip()


def _scores(values: Sequence[float], answers: Sequence[str], kind: AnswerKind) -> dict[str, Any]:
    return {
        "measure": kind.measure,
        **mean_with_error(values),
        "questions": len(values),
        "answers": list(answers),
    }
