"""Membership inference: whether a model has learned a text, from how likely it finds the text.

Each of `ATTACKS` scores every passage, higher for what a model has learned. Groups are compared by
the AUC: the chance that a passage to forget scores higher than one of another group, ties counting
half. Against `holdout`, which no model has seen, 0.5 means as if never learned; against `retain`,
which the model knows too, 0.5 means as well known as what stays.

The attacks are those of RWKU (jinzhuoran/RWKU a23df67, llmtuner/eval/eval_mia.py), which reports
loss, zlib and, as `mink20`, min-k++ with k = 0.2. It reports means only, so there is no AUC of its
own to compare with. MUSE reports min-k with 0.4 (swj0419/muse_bench 75d1762, eval.py), and its
`privleak` is made of two AUCs. k is `evaluation.min_k`.

1. The lowest share has at least one token, as in open-unlearning (f4d8463, min_k_plus_plus.py).
   With fewer than 1/k tokens RWKU's score is NaN.
2. Min-k++ clamps the variance over the vocabulary to at least 1e-6, as open-unlearning does: where
   a model is certain, RWKU divides by nearly 0.
3. A passage longer than `evaluation.max_length` tokens is cut there, and its zlib score divides by
   the size of what was read; the number of passages cut is reported. The references read all of it.
4. A passage of fewer than two tokens, of which nothing is predicted, is left out, and so is one
   whose likelihood is not finite, as in RWKU; the number of passages scored is reported.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from statistics import mean, variance
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from seuf.benchmarks.answers import mean_with_error
from seuf.benchmarks.records import Group, Passage
from seuf.moe.architectures import check_positions, decoder, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, by_length, open_ids
from seuf.moe.loss import output_head, row_parts

if TYPE_CHECKING:
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel

SMALLEST_VARIANCE = 1e-6
NEVER = -1e4  # a log-likelihood whose exponential is 0 in every type
OTHER_GROUPS: tuple[Group, ...] = ("holdout", "retain")


class Sample(NamedTuple):
    """A passage as the model reads it.

    Attributes:
        group: The passage's group.
        text: The part that is read.
        ids: Its tokens.
        cut: Whether the passage is longer.
    """

    group: Group
    text: str
    ids: list[int]
    cut: bool


class Predictions(NamedTuple):
    """Log-likelihoods in nats, in float32 or finer, each (n,).

    Attributes:
        actual: Of the token that follows in the text.
        mean: Mean over the vocabulary, weighted by the model's own prediction.
        variance: Variance over the vocabulary, weighted alike.
    """

    actual: Tensor
    mean: Tensor
    variance: Tensor


def _loss(sample: Sample, predictions: Predictions, k: float) -> float:
    return predictions.actual.mean().item()


def _zlib(sample: Sample, predictions: Predictions, k: float) -> float:
    return predictions.actual.mean().item() / len(zlib.compress(sample.text.encode()))


def _min_k(sample: Sample, predictions: Predictions, k: float) -> float:
    return _mean_of_lowest(predictions.actual, k)


def _min_k_plus_plus(sample: Sample, predictions: Predictions, k: float) -> float:
    deviation = predictions.variance.clamp(min=SMALLEST_VARIANCE).sqrt()
    return _mean_of_lowest((predictions.actual - predictions.mean) / deviation, k)


def _mean_of_lowest(values: Tensor, k: float) -> float:
    """Return the mean of the lowest share k of the values, at least one."""
    return values.sort().values[: max(1, int(len(values) * k))].mean().item()


ATTACKS: dict[str, Callable[[Sample, Predictions, float], float]] = {
    "loss": _loss,
    "zlib": _zlib,
    "min_k": _min_k,
    "min_k_plus_plus": _min_k_plus_plus,
}


def score_passages(
    subject_model: LanguageModel, passages: Sequence[Passage], settings: ScoringSettings
) -> dict[str, Any]:
    """Return the scores of each group of passages by each attack, and the AUC between groups.

    Returns:
        `min_k`: the share k. `groups`: for each group the numbers of `passages` scored and of those
        `cut`, and for each of `ATTACKS` `value` (the mean) and `standard_error`. `auc`: `value` and
        `standard_error` of each attack on `forget` against each other group there is.
    """
    samples = _samples(subject_model, passages, settings.max_length)
    predictions = _predictions_of_samples(subject_model, samples, settings.batch_size)
    scores: dict[Group, dict[str, list[float]]] = {}
    for sample, predicted in zip(samples, predictions, strict=True):
        if not predicted.actual.isfinite().all():
            continue
        group = scores.setdefault(sample.group, {name: [] for name in ATTACKS})
        for name, attack in ATTACKS.items():
            group[name].append(attack(sample, predicted, settings.min_k))
    cut = [sample.group for sample in samples if sample.cut]
    groups = {
        group: {
            "passages": len(by_attack["loss"]),
            "cut": cut.count(group),
            **{name: mean_with_error(values) for name, values in by_attack.items()},
        }
        for group, by_attack in sorted(scores.items())
    }
    auc = {
        other: {
            name: area_under_curve(scores["forget"][name], scores[other][name]) for name in ATTACKS
        }
        for other in OTHER_GROUPS
        if other in scores and "forget" in scores
    }
    return {"min_k": settings.min_k, "groups": groups, "auc": auc}


def area_under_curve(members: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return the AUC of scores that should be higher for members, and its standard error.

    The error is `sqrt(var(a) / len(a) + var(b) / len(b))`: `a` holds for each member the share of
    others below it, `b` for each other the share of members below it, ties counting half. Passages
    are taken as independent; those about one person are not quite.
    """
    shares = _shares_below(members, others), _shares_below(others, members)
    error = sqrt(sum(variance(part) / len(part) for part in shares if len(part) > 1))
    return {"value": mean(shares[0]), "standard_error": error}


def _shares_below(scores: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return for each score the share of the others below it, ties counting half."""
    among_all = rankdata([*scores, *others])[: len(scores)]
    return ((among_all - rankdata(scores)) / len(others)).tolist()


def _samples(
    subject_model: LanguageModel, passages: Sequence[Passage], length: int
) -> list[Sample]:
    tokenizer: Any = subject_model.tokenizer
    rows = open_ids(tokenizer, [passage.text for passage in passages])
    samples = []
    for passage, ids in zip(passages, rows, strict=True):
        read = ids[:length]
        cut = len(ids) > length
        text = tokenizer.decode(read, skip_special_tokens=True) if cut else passage.text
        if len(read) > 1:
            samples.append(Sample(passage.group, text, read, cut))
    check_positions(
        subject_model.model,
        [sample.ids for sample in samples],
        "set evaluation.max_length to {} or less",
    )
    return samples


def _predictions_of_samples(
    subject_model: LanguageModel, samples: Sequence[Sample], batch_size: int
) -> list[Predictions]:
    """Return the model's predictions of each sample's tokens after the first."""
    predictions: dict[int, Predictions] = {}
    ids, backoff = [sample.ids for sample in samples], Backoff("lower evaluation.max_length")
    batches = by_length(ids, batch_size, subject_model.padding)
    for part, of_part in backoff.map_batches(batches, partial(_of_batch, subject_model.model)):
        predictions |= zip(part.positions or (), of_part, strict=True)
    return [predictions[position] for position in range(len(samples))]


@torch.no_grad()
def _of_batch(model: nn.Module, batch: Batch) -> list[Predictions]:
    inputs = batch.inputs(input_device(model))
    hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
    is_token = batch.attention_mask[:, 1:].bool()
    rows = hidden[:, :-1][is_token.to(hidden.device)]  # of all samples, one after the other
    of_all = predict(rows, output_head(model), batch.input_ids[:, 1:][is_token])
    lengths = is_token.sum(1).tolist()
    parts = zip(*(values.cpu().double().split(lengths) for values in of_all), strict=True)
    return [Predictions(*part) for part in parts]


@torch.no_grad()
def predict(hidden: Tensor, head: nn.Module, tokens: Tensor) -> Predictions:
    """Return the log-likelihood of tokens, with its mean and variance over the vocabulary.

    Logits are computed for a few rows at a time, see `seuf.moe.loss`.

    Args:
        hidden: The hidden state that predicts each token, (n, d).
        head: Maps hidden states (n, d) to logits (n, V), see `loss.output_head`.
        tokens: (n,).
    """
    parts = [_of_logits(head(hidden[p]), tokens[p]) for p in row_parts(hidden, head)]
    actual, mean, variance = (torch.cat(part) for part in zip(*parts, strict=True))
    return Predictions(actual, mean, variance)


def _of_logits(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    values = logits.log_softmax(-1, dtype=dtype)  # (n, V)
    actual = values.gather(1, tokens.to(values.device)[:, None])[:, 0]
    shares = values.exp()
    values.clamp_(min=NEVER)  # else 0 * -inf is NaN
    mean = (shares * values).sum(-1)
    # around the mean, since a difference of squares would lose digits; in place to save memory
    variance = values.sub_(mean[:, None]).square_().mul_(shares).sum(-1)
    return actual, mean, variance
