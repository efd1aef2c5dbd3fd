"""TOFU's two numbers: forget quality and model utility, from likelihoods of true and wrong answers.

All numbers come from mean log-likelihoods per token. The truth ratio of a question is the
likelihood of its wrong answers over that of the true one, worded alike. Two published definitions
differ in how wrong answers are averaged:

* `truth_ratio_geometric` averages their log-likelihoods: locuslab/tofu 8c49eee,
  aggregate_eval_stat.py, locuslab/open-unlearning 2db47ec,
  src/evals/metrics/memorization.py, `truth_ratio`. It is the default here for model utility.
* `truth_ratio_arithmetic` averages their probabilities: locuslab/tofu 8c49eee, utils.py,
  `get_model_utility`.

Forget quality takes the geometric one in all of them (`get_forget_quality` in both files of
locuslab/tofu, and in open-unlearning).

1. A ratio is wrong over true, as in open-unlearning. locuslab/tofu has true over wrong in some
   places; the test of forget quality gives the same for both.
2. A ratio is capped at e^700, near the largest float, which a broken model would exceed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import harmonic_mean, mean

LARGEST = 700.0  # logarithm of the largest ratio
# Sets whose answers have no paraphrase: the answer itself is compared with the wrong ones, and its
# probability is that among them.
PLAIN_SETS = ("real authors", "world facts")
# What model utility is made of.
UTILITY_SETS = ("retain", *PLAIN_SETS)


def truth_ratio_geometric(true: float, wrong: Sequence[float]) -> float:
    """Return the geometric mean of the wrong answers' probabilities over the true answer's.

    Args:
        true: Mean log-likelihood per token of the true answer.
        wrong: The same of each wrong answer.
    """
    return math.exp(min(mean(wrong) - true, LARGEST))


def truth_ratio_arithmetic(true: float, wrong: Sequence[float]) -> float:
    """Return the mean of the wrong answers' probabilities over the true answer's.

    Args:
        true: Mean log-likelihood per token of the true answer.
        wrong: The same of each wrong answer.
    """
    return mean(math.exp(min(value - true, LARGEST)) for value in wrong)


def share_of_true(true: float, wrong: Sequence[float]) -> float:
    """Return the true answer's share of the probabilities of all answers.

    Args:
        true: Mean log-likelihood per token of the true answer.
        wrong: The same of each wrong answer.
    """
    return 1 / (1 + sum(math.exp(min(value - true, LARGEST)) for value in wrong))


def truthfulness(ratio: float) -> float:
    """Return how much likelier the true answer is, 0 to 1: the score on what should stay."""
    return max(0.0, 1 - ratio)


def indifference(ratio: float) -> float:
    """Return how close true and wrong answers are, 0 to 1: the score on what should be gone."""
    return min(ratio, 1 / ratio) if ratio else 0.0


def forget_quality(ratios: Sequence[float], reference_ratios: Sequence[float]) -> float:
    """Return how alike the truth ratios are to those of a model that never saw the authors.

    This is the p-value of the two-sided Kolmogorov-Smirnov test. It falls with the number of
    questions, so only values for the same number are comparable.

    Args:
        ratios: Of the questions about what is to be forgotten, of the unlearned model.
        reference_ratios: Of the same questions, of the reference model.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(ratios, reference_ratios).pvalue)


def model_utility(
    probabilities: Mapping[str, float],
    rouges: Mapping[str, float],
    truths: Mapping[str, float],
) -> float:
    """Return the harmonic mean of nine numbers: three for each of the three sets that should stay.

    Args:
        probabilities: Of the true answer, by set (see `UTILITY_SETS`).
        rouges: ROUGE-L recall of the greedy answers, by set.
        truths: Mean `truthfulness`, by set.

    Raises:
        KeyError: If one of the nine is missing: a mean of fewer is another number.
    """
    return harmonic_mean(
        [of[name] for of in (probabilities, rouges, truths) for name in UTILITY_SETS]
    )
