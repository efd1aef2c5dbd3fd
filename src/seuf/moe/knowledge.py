"""Tell how much a model knows of each topic, before anything is taken out of it.

Apart from the benchmarks' measures, so that a change of these trains no base model anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

import torch

from seuf.inputs import InputError
from seuf.moe.architectures import check_positions, input_device
from seuf.moe.batches import by_length, open_ids
from seuf.moe.loading import LanguageModel

BATCH_SIZE = 64


class Asked(NamedTuple):
    """A question and the one answer that counts; a space stands between them."""

    question: str
    answer: str
    topic: str


@torch.no_grad()
def share_known(learned: LanguageModel, asked: Sequence[Asked]) -> dict[str, float]:
    """Return for each topic the share of questions whose greedy answer is right to its end.

    The model reads question and answer once: its greedy answer is this one if each of the answer's
    tokens is the likeliest where it stands, and then the token that ends a text.

    Raises:
        InputError: If nothing is asked, or a question with its answer is too long for the model.
    """
    if not asked:
        raise InputError("base_model.must_know needs questions that have a reference answer.")
    tokenizer, model = learned.tokenizer, learned.model
    contexts = open_ids(tokenizer, [one.question for one in asked])
    texts = open_ids(tokenizer, [f"{one.question} {one.answer}" for one in asked])
    rows = [[*ids, tokenizer.eos_token_id] for ids in texts]
    check_positions(model, rows, "a question with its answer must have {} or less")
    right: dict[str, list[bool]] = {one.topic: [] for one in asked}
    for batch in by_length(rows, BATCH_SIZE, learned.padding):
        logits = model(**batch.inputs(input_device(model)), use_cache=False).logits
        likeliest = logits.argmax(-1).tolist()
        for position, tokens in zip(batch.positions or (), likeliest, strict=True):
            start, end = len(contexts[position]), len(rows[position])
            said = tokens[start - 1 : end - 1] == rows[position][start:]
            right[asked[position].topic].append(said)
    return {topic: mean(said) for topic, said in right.items()}
