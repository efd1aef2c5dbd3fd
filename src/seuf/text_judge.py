"""Unlearn without questions: judge the model by the texts themselves.

`seuf.unlearn` is this module's `unlearn`. Its default judge measures how much of the texts the
model still produces; the workflow's stages always pass a judge of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from seuf.moe.loading import LanguageModel
from seuf.unlearning import algorithm
from seuf.unlearning.algorithm import Experts, Unlearned
from seuf.unlearning.evaluations import Evaluation, Judge
from seuf.unlearning.settings import Method, UnlearningSettings

JUDGED = 64  # samples of each set at most, evenly spaced


def unlearn(
    base: LanguageModel,
    forget: Sequence[Sequence[int]],
    retain: Sequence[Sequence[int]],
    method: Method,
    experts: Experts,
    judge: Judge | None = None,
    settings: UnlearningSettings | None = None,
    seed: int = 0,
) -> Unlearned:
    """Return what a method changes in the base model, which itself stays unchanged.

    See `seuf.unlearning.algorithm.unlearn` for the steps and the errors.

    Args:
        base: The original model.
        forget: Token ids of the samples to forget, see `samples_of`.
        retain: Token ids of the samples to keep.
        method: Scope, objective, anchor, learning rates.
        experts: The selected experts, (layer, expert); other scopes do not use them.
        judge: Scores a model; by default `text_judge`, which measures these training texts, not
            knowledge from other texts.
        settings: The budget.
        seed: Decides the order of the samples and RMU's direction.
    """
    judge = judge or text_judge(forget, retain)
    return algorithm.unlearn(base, forget, retain, method, experts, judge, settings, seed)


def text_judge(forget: Sequence[Sequence[int]], retain: Sequence[Sequence[int]]) -> Judge:
    """Return a judge by how much of the texts a model produces, and its NLL on the retain texts.

    Forget efficacy and utility are the share of tokens in the texts' second halves that are the
    model's first choice given the preceding tokens. Chance is the score of always choosing the
    forget texts' most frequent such token. `general_loss` is the NLL of the retain texts' second
    halves, in nats per token.
    """
    forget, retain = _sampled(forget), _sampled(retain)
    counts = Counter(token for ids in forget for token in ids[len(ids) // 2 :])
    chance = max(counts.values(), default=0) / max(counts.total(), 1)

    def judge(model: nn.Module) -> Evaluation:
        (efficacy, _), (utility, nll) = (produced(model, texts) for texts in (forget, retain))
        return Evaluation(efficacy, utility, chance, {"general_loss": nll})

    return judge


@torch.no_grad()
def produced(model: nn.Module, samples: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return the share of the second halves' tokens that are the first choice, and their NLL."""
    device, right, nll, tokens = next(model.parameters()).device, 0.0, 0.0, 0
    for ids in samples:
        half = max(1, len(ids) // 2)
        targets = torch.tensor(ids[half:], device=device)
        logits = model(input_ids=torch.tensor([ids], device=device)).logits[0, half - 1 : -1]
        right += (logits.argmax(-1) == targets).sum().item()
        nll += nn.functional.cross_entropy(logits.float(), targets, reduction="sum").item()
        tokens += len(targets)
    return right / max(tokens, 1), nll / max(tokens, 1)


def _sampled(samples: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return at most `JUDGED` samples of two tokens or more, evenly spaced."""
    usable = [list(ids) for ids in samples if len(ids) > 1]
    return usable[:: -(-len(usable) // JUDGED) or 1]
