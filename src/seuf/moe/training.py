"""Make a study's base model know the benchmark's texts, so that there is something to unlearn.

`pretrain` trains a small MoE model from scratch, so that a study needs no download; `finetune`
teaches an existing model by LoRA. Both run the same loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from seuf.inputs import InputError
from seuf.moe.architectures import check_positions
from seuf.moe.batches import IGNORED, as_batch, shared_beginning
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.lora import adapted, merge, parameters_of
from seuf.moe.loss import batch_nll
from seuf.moe.settings import FinetuningSettings, PretrainingSettings
from seuf.moe.threads import threads

Lesson = tuple[str, str] | tuple[str, str, str]  # text, topic, and maybe prompt
Labelled = tuple[int, int]  # a token, and what it is to be foretold as: itself, or IGNORED
Token = TypeVar("Token")
END = "<|endoftext|>"
LARGEST_GRADIENT = 1.0


def pretrain(
    texts: Sequence[Lesson],
    settings: PretrainingSettings,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LanguageModel:
    """Return a small qwen2_moe model, and its tokenizer, trained on the texts.

    Args:
        texts: Texts, each with its topic, and with its prompt if that is not to be learnt; a
            training sample holds texts of one topic only, as a document would.
        settings: Shape and training budget.
        seed: Decides weights and order.
        tokenizer: Of another model of the same study; by default one is trained on the texts.
    """
    torch.manual_seed(seed)
    tokenizer = tokenizer or train_tokenizer([text for text, *_ in texts], settings.vocabulary)
    with threads(settings.threads):
        model = new_model(settings, len(tokenizer), tokenizer.eos_token_id).train()
        samples = endless_samples(texts, tokenizer, settings.length, random.Random(seed))
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )

        def loss(ids: Tensor, labels: Tensor) -> Tensor:  # plus the weighted load balancing
            return model(ids, labels=labels, output_router_logits=True, use_cache=False).loss

        _train(optimizer, loss, samples, settings, "pretraining")
    return LanguageModel(model.eval(), tokenizer)


def finetune(texts: Sequence[Lesson], settings: FinetuningSettings, seed: int) -> LanguageModel:
    """Return a model that was taught the texts, and its tokenizer: a new model, of its own weights.

    Args:
        texts: As `pretrain` takes them.
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

    def loss(ids: Tensor, labels: Tensor) -> Tensor:
        values, _ = batch_nll(base.model, as_batch({"input_ids": ids}))
        return values[labels[:, 1:].to(values.device) != IGNORED].mean()

    with threads(settings.threads), adapted(base.model, settings.rank, seed) as adapters:
        trained = parameters_of(adapters).values()
        optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0, fused=True)
        _train(optimizer, loss, samples, settings, "fine-tuning")
        merge(adapters)
    return LanguageModel(base.model, base.tokenizer)


def _train(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    samples: Iterator[list[Labelled]],
    settings: PretrainingSettings | FinetuningSettings,
    name: str,
) -> None:
    """Minimise `loss_of`, which gets token ids and labels (B, T), over the optimizer's tensors."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, settings))
    progress = tqdm(range(settings.steps), desc=name, unit="step", disable=None)
    for _ in progress:
        batch = torch.tensor(list(islice(samples, settings.batch_size)))
        loss = loss_of(batch[..., 0], batch[..., 1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def rate_at(step: int, settings: PretrainingSettings | FinetuningSettings) -> float:
    """Return the learning rate of a step: a linear rise, then a linear fall to a fiftieth."""
    rise = min(1.0, (step + 1) / settings.warmup)
    fall = max(0.02, 1 - step / settings.steps)
    return settings.learning_rate * rise * fall


def endless_samples(
    texts: Sequence[Lesson],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
) -> Iterator[list[Labelled]]:
    """Yield samples of `length` tokens without end; each pass takes the texts in another order."""
    topics: dict[str, list[list[Labelled]]] = {}
    for text, topic, *prompt in texts:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        asked = shared_beginning(ids, tokenizer(prompt[0])["input_ids"]) if any(prompt) else 0
        labels = [IGNORED] * asked + ids[asked:]
        topics.setdefault(topic, []).append(list(zip(ids, labels, strict=True)))
    while True:
        samples = [block for topic in topics.values() for block in full_samples(topic, length, rng)]
        rng.shuffle(samples)
        yield from samples


def full_samples(texts: list[list[Token]], length: int, rng: random.Random) -> list[list[Token]]:
    """Return texts in random order as samples of `length` tokens; the last begins anew to fill."""
    rng.shuffle(texts)
    stream = [token for text in texts for token in text]
    stream += list(islice(cycle(stream), -len(stream) % length))
    return [stream[start : start + length] for start in range(0, len(stream), length)]


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
            initializer_range=settings.initializer_range,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
