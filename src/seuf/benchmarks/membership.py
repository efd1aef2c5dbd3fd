"""Scores of a passage that are higher for what a model has learned.

The four are those of RWKU (jinzhuoran/RWKU a23df67, llmtuner/eval/eval_mia.py), which reports loss,
zlib and, as `mink20`, min-k++ with k = 0.2. MUSE reports min-k with 0.4 (swj0419/muse_bench
75d1762, eval.py). k is `evaluation.min_k`.

1. At least one token is in the lowest share. With fewer than 1/k tokens RWKU's score is no number;
   open-unlearning (f4d8463, min_k_plus_plus.py) takes one, too.
2. Min-k++ takes a variance over the vocabulary that is below 1e-6 for 1e-6, as open-unlearning
   does: where a model is certain, RWKU divides by nearly nothing.

What a model expected at each place of a text, beside the token that stands there.

Membership inference: does a model still look as if it had learned a text?

Each of the `attacks` scores every passage. Groups are told apart by the AUC: the chance that a
passage to forget has a higher score than one of another group, ties half. Beside `holdout`, which
no model has seen, 0.5 is as if it had never been learned. Beside `retain`, which is known too, 0.5
is as well known as what stays. RWKU reports means only, so it has no AUC to compare with; MUSE's
`privleak` is made of two AUCs.

1. A passage longer than `evaluation.max_length` tokens is cut there, and its zlib score divides by
   the size of what was read; how many were cut is told. The references read all of it.
2. A passage of fewer than two tokens, of which nothing is predicted, is left out, and so is one
   whose likelihood is no number, as RWKU does; how many passages were scored is told.
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
from seuf.moe.batches import Batch, by_length
from seuf.moe.loss import output_head, row_parts

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.benchmarks.records import Group
    from seuf.benchmarks.settings import ScoringSettings
    from seuf.moe.loading import LanguageModel

SMALLEST_VARIANCE = 1e-6


class Sample(NamedTuple):
    """A passage as the model reads it.

    Attributes:
        group: The passage's.
        text: What is read of it.
        ids: The tokens.
        cut: Whether the passage is longer.
    """

    group: Group
    text: str
    ids: list[int]
    cut: bool


def _loss(sample: Sample, found: Predictions, k: float) -> float:
    return found.found.mean().item()


def _zlib(sample: Sample, found: Predictions, k: float) -> float:
    return found.found.mean().item() / len(zlib.compress(sample.text.encode()))


def _min_k(sample: Sample, found: Predictions, k: float) -> float:
    return _lowest(found.found, k)


def _min_k_plus_plus(sample: Sample, found: Predictions, k: float) -> float:
    deviation = found.variance.clamp(min=SMALLEST_VARIANCE).sqrt()
    return _lowest((found.found - found.mean) / deviation, k)


def _lowest(values: Tensor, k: float) -> float:
    """Return the mean of the lowest share k of the values, of one at least."""
    return values.sort().values[: max(1, int(len(values) * k))].mean().item()


ATTACKS: dict[str, Callable[[Sample, Predictions, float], float]] = {
    "loss": _loss,
    "zlib": _zlib,
    "min_k": _min_k,
    "min_k_plus_plus": _min_k_plus_plus,
}


class Predictions(NamedTuple):
    """Log-likelihoods in nats, in float32 or finer, each (n,).

    Attributes:
        found: Of the token that stands there.
        mean: Of a token drawn from the model's own prediction, on average over the vocabulary.
        variance: Of the same.
    """

    found: Tensor
    mean: Tensor
    variance: Tensor


@torch.no_grad()
def predictions(hidden: Tensor, head: nn.Module, tokens: Tensor) -> Predictions:
    """Return how likely a model finds tokens, and how likely it finds tokens there in general.

    Logits are made for a few rows at a time, see `loss`.

    Args:
        hidden: The hidden state that predicts each token, (n, d).
        head: Makes logits (n, V) of hidden states (n, d), see `loss.output_head`.
        tokens: (n,).
    """
    tokens = tokens.to(hidden.device)
    parts = [_of_logits(head(hidden[p]), tokens[p]) for p in row_parts(hidden, head)]
    found, mean, variance = (torch.cat(part) for part in zip(*parts, strict=True))
    return Predictions(found, mean, variance)


def _of_logits(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    values = logits.log_softmax(-1, dtype=dtype)  # (n, V)
    found = values.gather(1, tokens[:, None])[:, 0]
    shares = values.exp()
    mean = (shares * values).sum(-1)
    # in place, and around the mean: a difference of two squares would lose its digits
    variance = values.sub_(mean[:, None]).square_().mul_(shares).sum(-1)
    return found, mean, variance


Scores = dict[Group, dict[str, list[float]]]

OTHERS: tuple[Group, ...] = ("holdout", "retain")


def score_passages(
    subject_model: LanguageModel, passages: Sequence[Passage], settings: ScoringSettings
) -> dict[str, Any]:
    """Return how well known each group of passages looks, and how well they are told apart.

    Returns:
        `min_k`: the share k. `groups`: for each group `passages` (scored), `cut` (of these) and for
        each of `ATTACKS` `value` (the mean) and `standard_error`. `auc`: for each other group that
        there is beside `forget`, and each attack, `value` and `standard_error`.
    """
    samples = _samples(subject_model, passages, settings.max_length)
    found = _predictions(subject_model, samples, settings.batch_size)
    scores: Scores = {}
    for sample, of_one in zip(samples, found, strict=True):
        if not of_one.found.isfinite().all():
            continue
        group = scores.setdefault(sample.group, {name: [] for name in ATTACKS})
        for name, attack in ATTACKS.items():
            group[name].append(attack(sample, of_one, settings.min_k))
    cut = [sample.group for sample in samples if sample.cut]
    return {
        "min_k": settings.min_k,
        "groups": {g: _group(of_g, cut.count(g)) for g, of_g in sorted(scores.items())},
        "auc": _told_apart(scores),
    }


def area_under_curve(members: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Return the AUC of scores that should be higher for members, and its standard error.

    That is `sqrt(var(a) / len(a) + var(b) / len(b))`, where `a` has for each member the share of
    others it is above, ties half, and `b` for each other the share of members that are above it.
    Passages are taken to be independent; those about one person are not quite.
    """
    shares = _shares(members, others), _shares(others, members)
    error = sqrt(sum(variance(part) / len(part) for part in shares if len(part) > 1))
    return {"value": mean(shares[0]), "standard_error": error}


def _shares(scores: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return for each score the share of the others that it is above; a tie is half."""
    among_all = rankdata([*scores, *others])[: len(scores)]
    return ((among_all - rankdata(scores)) / len(others)).tolist()


def _told_apart(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    if "forget" not in scores:
        return {}
    return {
        other: {
            name: area_under_curve(scores["forget"][name], scores[other][name]) for name in ATTACKS
        }
        for other in OTHERS
        if other in scores
    }


def _group(scores: dict[str, list[float]], cut: int) -> dict[str, Any]:
    told = {name: mean_with_error(values) for name, values in scores.items()}
    return {"passages": len(scores["loss"]), "cut": cut, **told}


def _samples(
    subject_model: LanguageModel, passages: Sequence[Passage], length: int
) -> list[Sample]:
    tokenizer: Any = subject_model.tokenizer
    rows = tokenizer([passage.text for passage in passages])["input_ids"] if passages else []
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


def _predictions(
    subject_model: LanguageModel, samples: Sequence[Sample], batch_size: int
) -> list[Predictions]:
    """Return what the model expected of each sample's tokens but the first."""
    found: dict[int, Predictions] = {}
    ids, backoff = [sample.ids for sample in samples], Backoff("lower evaluation.max_length")
    for batch in by_length(ids, batch_size, subject_model.padding):
        for part, of_part in backoff.rows(batch, partial(_of_batch, subject_model.model)):
            found |= zip(part.positions or (), of_part, strict=True)
    return [found[place] for place in range(len(samples))]


@torch.no_grad()
def _of_batch(model: nn.Module, batch: Batch) -> list[Predictions]:
    inputs = batch.inputs(input_device(model))
    hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
    counts = batch.attention_mask[:, 1:].bool()
    rows = hidden[:, :-1][counts.to(hidden.device)]  # of all samples, one after the other
    of_all = predictions(rows, output_head(model), batch.input_ids[:, 1:][counts])
    lengths = counts.sum(1).tolist()
    parts = zip(*(values.cpu().double().split(lengths) for values in of_all), strict=True)
    return [Predictions(*part) for part in parts]
