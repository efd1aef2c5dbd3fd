"""How much of a reference an answer holds: ROUGE-L (Lin 2004), in the variants that are published.

The variants give different numbers for the same pair, so each benchmark has its own (see `kinds`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from rouge import Rouge

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_PLTRDY = Rouge(metrics=["rouge-l"], stats=["r"])


def rouge_l_recall(reference: str, answer: str) -> float:
    """Return the share of the reference's words that the answer has too, in the same order.

    Words are compared by their stems, as TOFU and open-unlearning (d3d7cf9) do.
    """
    return _scorer(stems=True).score(reference, answer)["rougeL"].recall


def rouge_l_f1(reference: str, answer: str) -> float:
    """Return the harmonic mean of recall and precision, without stems, as MUSE has it."""
    return _scorer(stems=False).score(reference, answer)["rougeL"].fmeasure


def rouge_l_recall_pltrdy(reference: str, answer: str) -> float:
    """Return the recall of the package `rouge`, which RWKU (b8a03b3) uses.

    It splits sentences at full stops, words at spaces, and counts a word's place once: `Paris` and
    `Paris,` are two words. An answer without a word recalls nothing.
    """
    if not answer.replace(".", " ").split() or not reference.replace(".", " ").split():
        return 0.0
    return _PLTRDY.get_scores(answer, reference)[0]["rouge-l"]["r"]


MEASURES: dict[str, Callable[[str, str], float]] = {
    "rouge_l_recall": rouge_l_recall,
    "rouge_l_f1": rouge_l_f1,
    "rouge_l_recall_pltrdy": rouge_l_recall_pltrdy,
}


@cache
def _scorer(*, stems: bool) -> RougeScorer:
    # brings nltk, for which a stage without free answers need not wait
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stems)
