"""Distil a mixture of experts from the dense model it was made from, and teach it new texts.

An update minimises, over one mixed batch,

    KL(dense || mixture) on general text + NLL of the taught texts + weight * load balance

General text is sampled from the dense model, and is also the text that a study keeps, in full
samples. The load is balanced over the whole batch, general and taught: balanced within each kind of
text, no expert could specialise, and there would be nothing to select. The balance loss is that of
Fedus et al. 2022 (arXiv 2101.03961, Eq. 4) for each layer; its mean over layers is 1 where all
experts get the same load.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from seuf.moe.architectures import check_positions, decoder, moe_layers
from seuf.moe.backoff import must_fit
from seuf.moe.batches import Batch, Sample, pad, text_samples
from seuf.moe.dense_samples import sample_texts
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import Logits, output_head
from seuf.moe.routing import skip_packed_sequence_check
from seuf.moe.settings import UpcyclingSettings
from seuf.moe.threads import threads
from seuf.moe.training import Lesson, endless_samples
from seuf.moe.upcycling import load_dense, upcycle

log = logging.getLogger(__name__)
BETAS, DECAY, LARGEST_GRADIENT = (0.9, 0.95), 0.01, 1.0
LOWEST_RATE = 0.05  # of the peak
MATRIX = 1024  # size of the matrices that a processor is timed with
LONG = 1.0  # hours from which on the user is warned
BUCKET = 16  # taught batches whose texts are sorted by length together
REPORTS = 20  # log lines of a training, where no terminal shows a progress bar
SMALLER = "set base_model.activation_checkpointing to true, or lower base_model.batch_size"


def sample_dense(settings: UpcyclingSettings) -> tuple[list[str], list[str]]:
    """Return texts sampled from the dense model: those to distil on, and others kept apart."""
    with threads(settings.threads):
        dense, sampling = _placed(load_dense(settings), settings), settings.sampling
        tokens = (sampling.texts + sampling.apart) * sampling.max_new_tokens
        tell_if_hours("sampling", dense, forward=tokens, training=0)
        texts = sample_texts(dense, sampling)
    return texts[: settings.sampling.texts], texts[settings.sampling.texts :]


def distil(
    taught: Sequence[str], general: Sequence[Lesson], settings: UpcyclingSettings, seed: int
) -> LanguageModel:
    """Return the dense model as a mixture of experts that knows the taught texts.

    Args:
        taught: Texts to learn.
        general: Texts on which the dense model's predictions are kept, each with its topic; a
            sample holds texts of one topic only.
        settings: The dense model, the shape of the experts, and the training budget.
        seed: Seed of what `upcycle` draws and of the order of the texts.

    Raises:
        InputError: If there is no such model, it cannot be upcycled, samples are too long for it,
            or memory is short.
    """
    with threads(settings.threads):
        dense = load_dense(settings)
        positions = "set base_model.length and taught_length to {} or less"
        longest = max(settings.length, settings.taught_length)
        check_positions(dense.model, [range(longest)], positions)
        mixture = LanguageModel(upcycle(dense.model, settings, seed), dense.tokenizer)
        dense, mixture = _placed(dense, settings), _placed(mixture, settings)
        rng = random.Random(seed)
        samples = text_samples(dense.tokenizer, taught, settings.taught_length)
        lessons = taught_batches(samples, settings.taught_batch_size, dense.padding, rng)
        texts = endless_samples(general, dense.tokenizer, settings.length, rng)
        shown = settings.batch_size * settings.length
        learned = settings.taught_batch_size * sum(map(len, samples)) / max(len(samples), 1)
        of_both = settings.steps * shown, settings.steps * (shown + learned)
        tell_if_hours("distillation", dense, *of_both)
        _train(mixture, dense, texts, lessons, settings)
    return mixture


def tell_if_hours(what: str, dense: LanguageModel, forward: float, training: float) -> float | None:
    """Without a GPU, warn how long the processor takes at least; return the hours.

    A forward pass takes two operations a parameter and token, an update six (Kaplan et al. 2020,
    arXiv 2001.08361); a token passes as many parameters in the mixture as in the dense model. The
    processor's speed of matrix products is measured.

    Args:
        what: The name of the work.
        dense: The dense model, where it will run.
        forward: Tokens that pass the dense model.
        training: Tokens that the mixture is trained on.
    """
    if dense.model.device.type != "cpu":
        return None
    matrix = torch.ones(MATRIX, MATRIX, dtype=dense.model.dtype)
    matrix @ matrix  # the first one is slow
    start = time.perf_counter()
    matrix @ matrix
    rate = 2 * MATRIX**3 / (time.perf_counter() - start)
    parameters = sum(tensor.numel() for tensor in dense.model.parameters())
    hours = parameters * (2 * forward + 6 * training) / rate / 3600
    if hours >= LONG:
        log.warning(
            "No GPU is in use: %s takes %.0f hours at least on this processor (it multiplies "
            "matrices at %.2g TFLOP/s). A data center's GPU takes minutes.",
            *(what, hours, rate / 1e12),
        )
    return hours


def taught_batches(
    samples: Sequence[Sample], size: int, padding: int, rng: random.Random
) -> Iterator[Batch]:
    """Yield batches for ever, of samples of similar length; each pass has a new order."""
    order = list(samples)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order), size * BUCKET):
            bucket = sorted(order[start : start + size * BUCKET], key=len)
            batches = [bucket[at : at + size] for at in range(0, len(bucket), size)]
            rng.shuffle(batches)
            for batch in batches:
                yield pad(batch, padding)


def balance_loss(
    router_logits: Sequence[Tensor], top_k: int, present: Tensor | None = None
) -> Tensor:
    """Return the mean over layers of E sum_e f_e p_e: the share of choices times the probability.

    Args:
        router_logits: Of each layer, (N, E): all positions of the mixed batch.
        top_k: Experts chosen for each token.
        present: 1 for a token, 0 for padding, (N,); None if all are tokens.

    Returns:
        A scalar; 1 where all experts get the same load, E / top_k where all tokens choose alike.
    """
    losses = []
    for logits in router_logits:
        probabilities, experts = logits.float().softmax(-1), logits.shape[-1]
        chosen = F.one_hot(logits.topk(top_k, dim=-1).indices, experts).sum(1).float()
        weights = logits.new_ones(len(logits)) if present is None else present
        weights = (weights.float() / weights.sum())[:, None]
        share, mean = (chosen * weights).sum(0) / top_k, (probabilities * weights).sum(0)
        losses.append(experts * (share * mean).sum())
    return torch.stack(losses).mean()


def rate_at(step: int, settings: UpcyclingSettings) -> float:
    """Return the learning rate of a step, from 0: a linear rise, then half a cosine."""
    rise = min(1.0, (step + 1) / settings.warmup)
    fall = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * rise * (LOWEST_RATE + (1 - LOWEST_RATE) * fall)


def _placed(model: LanguageModel, settings: UpcyclingSettings) -> LanguageModel:
    """Return a model on the device and in the type that it is trained in."""
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    device = gpu if settings.device == "auto" else settings.device
    placed: Any = model.model
    placed.to(device=torch.device(device), dtype=getattr(torch, settings.dtype))
    return model


class Trainer:
    """The mixture's updates: float32 masters and optimizer, whose values are copied to the model.

    Args:
        mixture: The student.
        dense: The teacher.
        settings: Weights of the losses, and the schedule.
    """

    def __init__(
        self, mixture: LanguageModel, dense: LanguageModel, settings: UpcyclingSettings
    ) -> None:
        self.mixture, self.dense, self.settings = mixture.model, dense.model, settings
        self.routers = [layer.router for layer in moe_layers(mixture.model)]
        self.weights: list[Tensor] = list(mixture.model.parameters())
        self.masters = [weight.detach().float().clone() for weight in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.masters, lr=1.0, betas=BETAS, weight_decay=DECAY, fused=True
        )

    def update(self, general: Batch, lesson: Batch, rate: float) -> Tensor:
        """Take one step on a mixed batch.

        Args:
            general: Full samples of general text.
            lesson: Texts to learn.
            rate: Learning rate.

        Returns:
            KL, in nats a token, NLL of the lesson, the same, and balance, (3,).
        """
        with self._router_logits() as routed:
            student, taught = (self._logits(self.mixture, batch) for batch in (general, lesson))
        with torch.no_grad():
            teacher = self._logits(self.dense, general)
        losses = [_mean(*student.divergence(teacher)), _mean(*taught.nll())]
        layers = len(self.routers)
        of_layers = [torch.cat([routed[n], routed[layers + n]]) for n in range(layers)]
        masks = [batch.attention_mask.flatten() for batch in (general, lesson)]
        present = torch.cat(masks).to(of_layers[0].device, non_blocking=True)
        balance = balance_loss(of_layers, self.settings.top_k, present)
        loss: Tensor = losses[0] + losses[1] + self.settings.balance_weight * balance
        loss.backward()
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        nn.utils.clip_grad_norm_(self.masters, LARGEST_GRADIENT)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.masters)
        return torch.stack([*losses, balance]).detach()

    @contextmanager
    def _router_logits(self) -> Iterator[list[Tensor]]:
        """Collect the routers' logits, (N, E) each, padding included."""
        logits: list[Tensor] = []
        with ExitStack() as stack:
            for router in self.routers:
                handle = router.register_forward_hook(
                    lambda module, args, output: logits.append(output[0])
                )
                stack.callback(handle.remove)
            yield logits

    def _logits(self, model: Any, batch: Batch) -> Logits:
        inputs = batch.inputs(model.device)
        with skip_packed_sequence_check():
            hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
        return Logits(hidden, output_head(model), batch.labels)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values.sum() / counted.sum()


def _train(
    mixture: LanguageModel,
    dense: LanguageModel,
    texts: Iterator[Any],
    lessons: Iterator[Batch],
    settings: UpcyclingSettings,
) -> None:
    """Take `settings.steps` updates, with a bar on a terminal and lines in a log."""
    model: Any = mixture.model.train()
    if settings.activation_checkpointing:
        _checkpointing(model, "enable")({"use_reentrant": False})
    trainer, report = Trainer(mixture, dense, settings), Report(settings.steps)
    for step in report.steps:
        ids = [[token for token, _ in sample] for sample in islice(texts, settings.batch_size)]
        general, lesson = pad(ids, mixture.padding), next(lessons)
        with must_fit(SMALLER):
            losses = trainer.update(general, lesson, rate_at(step, settings))
        tokens = general.input_ids.numel() + int(lesson.attention_mask.sum())
        report.add(step + 1, losses, tokens)
    if settings.activation_checkpointing:
        _checkpointing(model, "disable")()
    model.eval()


def _checkpointing(model: Any, what: str) -> Any:
    """Return transformers' method, whose name changed with version 5.18."""
    new = getattr(model, f"activation_checkpointing_{what}", None)
    return new or getattr(model, f"gradient_checkpointing_{what}")


class Report:
    """Report mean losses and tokens a second now and then, without waiting for the GPU in between.

    Args:
        total: Number of steps.
    """

    def __init__(self, total: int) -> None:
        self.total, self.every = total, max(1, total // REPORTS)
        self.steps = tqdm(range(total), desc="distilling", unit="step", disable=None)
        self._begin()

    def _begin(self) -> None:
        self.losses, self.tokens, self.start = list[Tensor](), 0, time.perf_counter()

    def add(self, done: int, losses: Tensor, tokens: int) -> None:
        """Add the losses (3,) and tokens of a step; report if it is time."""
        self.losses.append(losses)
        self.tokens += tokens
        if done % self.every and done != self.total:
            return
        means = torch.stack(self.losses).mean(0).tolist()
        shown = {n: f"{v:.3f}" for n, v in zip(("kl", "nll", "balance"), means, strict=True)}
        shown["tokens/s"] = f"{self.tokens / (time.perf_counter() - self.start):,.0f}"
        self.steps.set_postfix(shown, refresh=False)
        if self.steps.disable:
            line = ", ".join(f"{name} {value}" for name, value in shown.items())
            log.info("distilling, step %d of %d: %s", done, self.total, line)
        self._begin()
