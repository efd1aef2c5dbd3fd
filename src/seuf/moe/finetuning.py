"""Teach a model that exists a benchmark's texts, by LoRA, so that there is something to unlearn."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import nn
from tqdm import tqdm

from seuf.errors import InputError
from seuf.moe.adapters import Adapter, adapted, merge, parameters_of
from seuf.moe.batches import Batch, as_batch
from seuf.moe.loss import batch_nll
from seuf.moe.models import LanguageModel, load_model
from seuf.moe.positions import check_positions
from seuf.moe.pretraining import endless_samples, rate_at
from seuf.moe.settings import FinetuningSettings
from seuf.moe.threads import threads

LARGEST_GRADIENT = 1.0


def finetune(
    texts: Sequence[tuple[str, str]], settings: FinetuningSettings, seed: int
) -> LanguageModel:
    """Return a model that was taught the texts, and its tokenizer: a new model, of its own weights.

    Args:
        texts: (text, topic) pairs; a training sample holds texts of one topic only.
        settings: Which model, and the training budget.
        seed: Decides adapters and order; on a CPU with them every bit.

    Raises:
        InputError: If there is no such model, it cannot be adapted, or samples are too long for it.
    """
    base = load_model(settings.taught)
    if base.tokenizer.eos_token_id is None:
        raise InputError(f"The tokenizer of {settings.path} has no token that ends a text.")
    check_positions(base.model, [range(settings.length)], "set base_model.length to {} or less")
    samples = endless_samples(texts, base.tokenizer, settings.length, random.Random(seed))
    with threads(settings.threads), adapted(base.model, settings.rank, seed) as adapters:
        _train(base.model, adapters, samples, settings)
        merge(adapters)
    return LanguageModel(base.model, base.tokenizer)


def _train(
    model: nn.Module,
    adapters: list[Adapter],
    samples: Iterator[list[int]],
    settings: FinetuningSettings,
) -> None:
    trained = list(parameters_of(adapters).values())
    optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, settings))
    progress = tqdm(range(settings.steps), desc="fine-tuning", unit="step", disable=None)
    for _ in progress:
        values, counted = batch_nll(model, _batch(samples, settings.batch_size))
        loss = values[counted].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _batch(samples: Iterator[list[int]], size: int) -> Batch:
    """Return samples of one length as a batch without padding."""
    return as_batch({"input_ids": torch.tensor(list(islice(samples, size)))})
