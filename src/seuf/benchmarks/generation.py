"""Score free answers: what a model says, beside the answer it should (or should no longer) know.

ROUGE-L recall of greedy answers, with stemming, as TOFU and open-unlearning
(https://github.com/locuslab/open-unlearning, d3d7cf9) have it; answers are as long as
`ScoringSettings.max_new_tokens` lets them be.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from rouge_score.rouge_scorer import RougeScorer

from seuf.benchmarks.records import Question
from seuf.errors import InputError
from seuf.moe.architectures import input_device
from seuf.moe.batches import Batch, pad

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.models import LanguageModel

SCORER = RougeScorer(["rougeL"], use_stemmer=True)


def score_answers(
    subject_model: LanguageModel, questions: Sequence[Question], settings: ScoringSettings
) -> dict[str, dict[str, Any]]:
    """Return ROUGE-L recall of the greedy answers by subject (`forget`, `retain`).

    Returns:
        For each subject `rouge_l_recall`, `standard_error` (of the mean) and `answers`: the text
        of each, in the order of the questions with a reference.

    Raises:
        InputError: If no question has a reference.
    """
    asked = [question for question in questions if question.reference]
    if not asked:
        raise InputError(
            "evaluation.generate is true, but no question has a `reference` to hold an answer "
            "against; set it to false."
        )
    answers = greedy_answers(subject_model, [q.question for q in asked], settings)
    told = list(zip(asked, answers, strict=True))
    subjects = sorted({question.subject for question in asked})
    return {s: _scores([(q, answer) for q, answer in told if q.subject == s]) for s in subjects}


def rouge_l_recall(reference: str, answer: str) -> float:
    """Return the share of the reference's words that the answer has too, in the same order."""
    return SCORER.score(reference, answer)["rougeL"].recall


@torch.no_grad()
def greedy_answers(
    subject_model: LanguageModel, prompts: Sequence[str], settings: ScoringSettings
) -> list[str]:
    """Return what the model most likely says after each prompt, up to its end token.

    A prompt longer than `max_length` loses its beginning.
    """
    encoded = subject_model.tokenizer(list(prompts))["input_ids"]
    rows = [ids[-settings.max_length :] for ids in encoded]
    order = sorted(range(len(rows)), key=lambda position: len(rows[position]))
    answers = [""] * len(rows)
    for start in range(0, len(order), settings.batch_size):
        positions = order[start : start + settings.batch_size]
        batch = _left_padded([rows[position] for position in positions], subject_model.padding)
        for position, answer in zip(positions, _said(subject_model, batch, settings), strict=True):
            answers[position] = answer
    return answers


def _said(subject_model: LanguageModel, batch: Batch, settings: ScoringSettings) -> list[str]:
    model: Any = subject_model.model
    device = input_device(model)
    generated = model.generate(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # some chat models bring one: it would no longer be greedy
        max_new_tokens=settings.max_new_tokens,
        pad_token_id=subject_model.padding,
    )
    new = generated[:, batch.input_ids.shape[1] :]
    texts = subject_model.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _left_padded(rows: Sequence[Sequence[int]], padding: int) -> Batch:
    """Return the rows as one batch (B, T), each ending at its last token."""
    mirrored = pad([row[::-1] for row in rows], padding)
    return Batch(mirrored.input_ids.flip(1), mirrored.attention_mask.flip(1))


def _scores(told: Sequence[tuple[Question, str]]) -> dict[str, Any]:
    recalls = [rouge_l_recall(question.reference, answer) for question, answer in told]
    return {
        "rouge_l_recall": mean(recalls),
        "standard_error": stdev(recalls) / len(recalls) ** 0.5 if len(recalls) > 1 else 0.0,
        "answers": [answer for _, answer in told],
    }
