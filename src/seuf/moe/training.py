"""Teach a study's base model the benchmark's texts, so that there is something to unlearn.

`pretrain` trains a small MoE model from scratch, so that a study needs no download; `finetune`
teaches an existing model by LoRA. Both run the same loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, cycle, islice
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
Labelled = tuple[int, int]  # a token and its label: the token itself, or IGNORED
Token = TypeVar("Token")
Known = Callable[[LanguageModel], Mapping[str, float]]  # share of a topic's questions answered
END = "<|endoftext|>"
LARGEST_GRADIENT = 1.0
LOWEST_RATE = 0.02  # of the peak


def pretrain(
    texts: Sequence[Lesson],
    settings: PretrainingSettings,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    known: Known | None = None,
) -> LanguageModel:
    """Return a small qwen2_moe model, and its tokenizer, trained on the texts.

    Args:
        texts: Texts, each with its topic, and with its prompt if no loss is taken of that; a
            training sample holds texts of one topic only, as a document would.
        settings: Shape and training budget.
        seed: Seed of the initial weights and of the order of the texts.
        tokenizer: That of another model of the study; by default one is trained on the texts.
        known: Returns the share of each topic that a model knows. With `must_know` training goes on
            until every share is high enough; otherwise it is not called.

    Raises:
        InputError: If a topic is not known well enough after `steps`, or `known` is missing.
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

        if settings.must_know is None:
            _train(optimizer, loss, samples, settings, "pretraining")
        elif known is None:
            raise InputError("base_model.must_know needs questions to measure what a model knows.")
        else:
            learner = LanguageModel(model, tokenizer)
            _train_until_known(optimizer, loss, samples, settings, learner, known)
    return LanguageModel(model.eval(), tokenizer)


def finetune(texts: Sequence[Lesson], settings: FinetuningSettings, seed: int) -> LanguageModel:
    """Return an existing model after fine-tuning on the texts, with its tokenizer.

    Args:
        texts: As `pretrain` takes them.
        settings: The model and the training budget.
        seed: Seed of the adapters and of the order; on a CPU it determines every bit.

    Raises:
        InputError: If there is no such model, it cannot be adapted, or samples are too long for it.
    """
    base = load_model(settings.taught)
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
    """Minimise `loss_of`, a function of token ids and labels (B, T), for `settings.steps` steps."""
    progress = tqdm(range(settings.steps), desc=name, unit="step", disable=None)
    for step in progress:
        batch = torch.tensor(list(islice(samples, settings.batch_size)))
        rate = rate_at(step, settings, fall_from=0, fall_over=settings.steps)
        loss = _update(optimizer, loss_of, batch, rate)
        progress.set_postfix(loss=f"{loss:.3f}", refresh=False)


def _train_until_known(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    samples: Iterator[list[Labelled]],
    settings: PretrainingSettings,
    learner: LanguageModel,
    known: Known,
) -> None:
    """Minimise `loss_of` until each topic is known, then cool the rate down, and check again.

    A fixed number of steps is too few on one kind of processor and enough on another. If a topic is
    lost during the cool-down, the rate rises again and training goes on.

    Raises:
        InputError: If a topic is not known after `steps`.
    """
    required, worst, share = settings.must_know or 0.0, "", 0.0
    falls_from: int | None = None
    next_look = min(settings.look_every, settings.steps)
    progress = tqdm(total=settings.steps, desc="pretraining", unit="step", disable=None)
    for step in count():
        batch = torch.tensor(list(islice(samples, settings.batch_size)))
        rate = rate_at(step, settings, falls_from, settings.cooldown)
        loss = _update(optimizer, loss_of, batch, rate)
        progress.update()
        progress.set_postfix(loss=f"{loss:.3f}", lowest=f"{worst} {share:.2f}", refresh=False)
        done = step + 1
        if done < next_look:
            continue
        learner.model.eval()
        shares = known(learner)
        learner.model.train()
        worst, share = min(shares.items(), key=lambda item: item[1])
        if share >= required and (falls_from is not None or settings.cooldown == 0):
            progress.close()
            return
        if share >= required:
            falls_from, next_look = done, done + settings.cooldown
        elif done < settings.steps:
            falls_from, next_look = None, min(done + settings.look_every, settings.steps)
        else:
            break
    raise InputError(
        f"After {done} steps the base model answers {share:.1%} of the selection questions about "
        f"{worst}, and base_model.must_know asks for {required:.1%} of every topic: raise "
        "base_model.steps, or change base_model.learning_rate."
    )


def _update(
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    batch: Tensor,
    rate: float,
) -> float:
    """Take one step on a batch of token ids and labels (B, T, 2); return its loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = loss_of(batch[..., 0], batch[..., 1])
    loss.backward()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def rate_at(
    step: int,
    settings: PretrainingSettings | FinetuningSettings,
    fall_from: int | None,
    fall_over: int,
) -> float:
    """Return the learning rate of a step: a linear rise, and a linear fall to a fiftieth.

    Args:
        step: From 0.
        settings: Peak and warm-up.
        fall_from: Step at which the rate begins to fall; None if it does not.
        fall_over: Steps of the fall.
    """
    rise = min(1.0, (step + 1) / settings.warmup)
    fall = 1.0 if fall_from is None else max(LOWEST_RATE, 1 - (step - fall_from) / fall_over)
    return settings.learning_rate * rise * fall


def endless_samples(
    texts: Sequence[Lesson],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    rng: random.Random,
) -> Iterator[list[Labelled]]:
    """Yield samples of `length` tokens for ever; each pass over the texts has a new order."""
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
    """Return texts in random order as samples of `length` tokens; the last wraps around."""
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
