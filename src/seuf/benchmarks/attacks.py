"""Scores of a passage that are higher for what a model has learned.

The four are those of RWKU (jinzhuoran/RWKU a23df67, llmtuner/eval/eval_mia.py), which reports loss,
zlib and, as `mink20`, min-k++ with k = 0.2. MUSE reports min-k with 0.4 (swj0419/muse_bench
75d1762, eval.py). k is `evaluation.min_k`.

1. At least one token is in the lowest share. With fewer than 1/k tokens RWKU's score is no number;
   open-unlearning (f4d8463, min_k_plus_plus.py) takes one, too.
2. Min-k++ takes a variance over the vocabulary that is below 1e-6 for 1e-6, as open-unlearning
   does: where a model is certain, RWKU divides by nearly nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.benchmarks.records import Group
    from seuf.moe.predictions import Predictions

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
