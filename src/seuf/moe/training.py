"""Train a small MoE model from scratch, so that a study needs no download.

Teach a model that exists a benchmark's texts, by LoRA, so that there is something to unlearn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from seuf.inputs import InputError
from seuf.moe.architectures import check_positions
from seuf.moe.batches import Batch, as_batch
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.lora import Adapter, adapted, merge, parameters_of
from seuf.moe.loss import batch_nll
from seuf.moe.settings import FinetuningSettings, PretrainingSettings
from seuf.moe.threads import threads

END = "<|endoftext|>"


def pretrain(
    texts: Sequence[tuple[str, str]],
    settings: PretrainingSettings,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LanguageModel:
    """Return a small qwen2_moe model, and its tokenizer, trained on the texts.

    Args:
        texts: (text, topic) pairs; a training sample holds texts of one topic only, as a document
            would.
        settings: Shape and training budget.
        seed: Decides weights and order.
        tokenizer: Of another model of the same study; by default one is trained on the texts.
    """
    torch.manual_seed(seed)
    tokenizer = tokenizer or train_tokenizer([text for text, _ in texts], settings.vocabulary)
    with threads(settings.threads):
        model = new_model(settings, len(tokenizer), tokenizer.eos_token_id)
        samples = endless_samples(texts, tokenizer, settings.length, random.Random(seed))
        _train(model, samples, settings)
    return LanguageModel(model.eval(), tokenizer)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level byte-pair encoding of at most `vocabulary` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def new_model(settings: PretrainingSettings, vocabulary: int, end: int = 0) -> Qwen2MoeForCausalLM:
    """Return an untrained model of the settings' shape; `end` ends and pads a text."""
    return Qwen2MoeForCausalLM(
        Qwen2MoeConfig(
            vocab_size=vocabulary,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            num_experts=settings.experts,
            num_experts_per_tok=settings.top_k,
            moe_intermediate_size=settings.expert_width,
            shared_expert_intermediate_size=settings.shared_expert_width,
            intermediate_size=settings.expert_width,
            router_aux_loss_coef=settings.balance_weight,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )


def endless_samples(
    texts: Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
) -> Iterator[list[int]]:
    """Yield samples of `length` tokens without end; each pass takes the texts in another order."""
    topics: dict[str, list[list[int]]] = {}
    for text, topic in texts:
        topics.setdefault(topic, []).append([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
    while True:
        blocks = [block for topic in topics.values() for block in _blocks(topic, length, rng)]
        rng.shuffle(blocks)
        yield from blocks


def _blocks(texts: list[list[int]], length: int, rng: random.Random) -> list[list[int]]:
    rng.shuffle(texts)
    stream = [token for text in texts for token in text]
    stream += list(islice(cycle(stream), -len(stream) % length))
    return [stream[start : start + length] for start in range(0, len(stream), length)]


def _train(
    model: Qwen2MoeForCausalLM, samples: Iterator[list[int]], settings: PretrainingSettings
) -> None:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, settings))
    model.train()
    progress = tqdm(range(settings.steps), desc="pretraining", unit="step", disable=None)
    for _ in progress:
        batch = torch.tensor(list(islice(samples, settings.batch_size)))
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def _loss(model: Qwen2MoeForCausalLM, batch: Tensor) -> Tensor:
    """Return next-token loss plus the weighted load-balancing loss."""
    return model(batch, labels=batch, output_router_logits=True, use_cache=False).loss


def rate_at(step: int, settings: PretrainingSettings | FinetuningSettings) -> float:
    """Return the learning rate of a step: a linear rise, then a linear fall to a fiftieth."""
    rise = min(1.0, (step + 1) / settings.warmup)
    fall = max(0.02, 1 - step / settings.steps)
    return settings.learning_rate * rise * fall


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
        _train_adapters(base.model, adapters, samples, settings)
        merge(adapters)
    return LanguageModel(base.model, base.tokenizer)


def _train_adapters(
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
