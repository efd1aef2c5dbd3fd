"""What a model says: greedy answers to prompts, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from seuf.moe.architectures import input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, pad
from seuf.moe.positions import check_positions

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.models import LanguageModel

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
