"""What a dense model says of its own accord: the text on which its mixture of experts must agree.

Nobody has the data that a published model was trained on. What it samples itself is as near to
them as can be had, and a model that predicts it as the dense one does is still that model
(sequence-level distillation, Kim and Rush 2016, arXiv 1606.07947).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from seuf.moe.backoff import Backoff
from seuf.moe.loading import LanguageModel
from seuf.moe.settings import SamplingSettings

SUBJECTS = """
    history geography chemistry biology physics medicine law music painting poetry cooking football
    astronomy economics computers religion philosophy animals plants travel France Japan Brazil
    Egypt India war kings cities rivers mountains oceans films novels
""".split()
OPENINGS = [
    "The most important fact about {} is",
    "An introduction to {}\n\n",
    "Question: What is {}? Answer:",
    "Question: Name a famous person of {}. Answer:",
    "",  # the model begins by itself
]
REQUEST = "Tell me about {}."  # in the chat template, where the model has one


def sample_texts(
    dense: LanguageModel, settings: SamplingSettings, name: str = "sampling"
) -> list[str]:
    """Return texts that the model has sampled at temperature 1, each with its opening.

    Special tokens are written out, so that the tokenizer reads them again. A text ends before the
    model's end of text.

    Args:
        dense: The model, on the device where it is to run.
        settings: How many, and how long; `texts` and `apart` together are returned.
        name: For the progress bar.
    """
    tokenizer, model = dense.tokenizer, dense.model
    rng, total = random.Random(settings.seed), settings.texts + settings.apart
    openings = [_opening(tokenizer, rng) for _ in range(total)]
    if model.device.type == "cuda":
        torch.cuda.manual_seed_all(settings.seed)
    torch.manual_seed(settings.seed)
    backoff, texts = Backoff("set base_model.sampling.batch_size lower"), list[str]()
    with tqdm(total=total, desc=name, unit="text", disable=None) as progress:
        for start in range(0, total, settings.batch_size):
            batch = openings[start : start + settings.batch_size]
            for _, made in backoff.map_items(batch, lambda part: _continue(dense, part, settings)):
                texts += made
                progress.update(len(made))
    return texts


def _opening(tokenizer: Any, rng: random.Random) -> str:
    subject = rng.choice(SUBJECTS)
    if tokenizer.chat_template and rng.random() < 0.25:
        asked = [{"role": "user", "content": REQUEST.format(subject)}]
        return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    return rng.choice(OPENINGS).format(subject) or (tokenizer.bos_token or tokenizer.eos_token)


@torch.no_grad()
def _continue(
    dense: LanguageModel, openings: Sequence[str], settings: SamplingSettings
) -> list[str]:
    """Return the openings with what the model adds to each."""
    tokenizer, model, end = dense.tokenizer, dense.model, dense.tokenizer.eos_token_id
    rows = [tokenizer(opening)["input_ids"] for opening in openings]
    width = max(map(len, rows))
    ids = torch.tensor([[dense.padding] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    made = model.generate(  # type: ignore[operator]
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=settings.max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=dense.padding,
        cache_implementation="static",  # one that grows is allocated anew for every token
        disable_compile=True,  # takes longer than there is to gain
    )
    texts = []
    for row, said in zip(rows, made[:, width:].tolist(), strict=True):
        kept = said[: said.index(end)] if end in said else said
        texts.append(str(tokenizer.decode([*row, *kept])))
    return texts
