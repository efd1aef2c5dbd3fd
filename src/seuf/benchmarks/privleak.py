"""How an AUC of membership inference compares with that of a model that never saw the texts.

PrivLeak is MUSE's (Shi et al. 2024, arXiv 2407.06460): 0 where unlearning leaves what retraining
leaves, below it where what was to be forgotten still looks known, above it where it looks less
known than retraining would leave it. MUSE counts its AUC the other way round than `membership`
does: it is high where the texts to forget look *unknown*. Both functions give one model the same
number.
"""

from __future__ import annotations


def privleak(auc: float, reference_auc: float) -> float:
    """Return PrivLeak in percent, of AUCs as `membership` counts them.

    locuslab/open-unlearning d3d7cf9, src/evals/metrics/privacy.py.

    Args:
        auc: Of the unlearned model: the chance that a text to forget looks better known than one
            that was never seen.
        reference_auc: The same of the model that never saw either; less than 1.
    """
    return privleak_of_muse(1 - auc, 1 - reference_auc)


def privleak_of_muse(auc: float, reference_auc: float) -> float:
    """Return PrivLeak in percent, of AUCs as MUSE counts them.

    swj0419/muse_bench 75d1762, eval.py: `forget_holdout_Min-40%` beside `AUC_RETRAIN`.

    Args:
        auc: Of the unlearned model: the chance that a text that was never seen looks better known
            than one to forget.
        reference_auc: The same of the model that never saw either; more than 0.
    """
    return (auc - reference_auc) / reference_auc * 100
