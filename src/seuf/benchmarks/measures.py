"""How an AUC of membership inference compares with that of a model that never saw the texts.

PrivLeak is MUSE's (Shi et al. 2024, arXiv 2407.06460): 0 where unlearning leaves what retraining
leaves, below it where what was to be forgotten still looks known, above it where it looks less
known than retraining would leave it. MUSE counts its AUC the other way round than `membership`
does: it is high where the texts to forget look *unknown*. Both functions give one model the same
number.

Every number of a model's scores by a name, as tables and metrics have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seuf.benchmarks.records import Question
from seuf.benchmarks.truth_ratios import (
    PLAIN_SETS,
    UTILITY_SETS,
    forget_quality,
    model_utility,
)


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


Scores = Mapping[str, Any]
Measures = dict[str, dict[str, Any]]
RATIO = "truth_ratio_geometric"


def measures(scores: Scores, questions: Sequence[Question]) -> Measures:
    """Return what the scores tell beside the headline, each with `value` and `standard_error`.

    Names: `rouge_<subject>` for free answers, with `_<kind>` for probes of a kind;
    `macro_<subject>` for the mean over topics, where these differ in size; `truth_ratio_forget`
    and `model_utility` of TOFU; `auc_min_k` for membership inference beside what was never seen,
    or where there is no such text `auc_min_k_retain` beside what was learned and is kept.
    """
    return {
        **_macro(scores, questions),
        **_answered(scores.get("generation", {})),
        **_truth(scores),
        **_membership(scores),
    }


def beside(scores: Scores, reference: Scores) -> Measures:
    """Return what can only be told beside a model that never saw what is to be forgotten.

    `forget_quality` of TOFU and `privleak` of MUSE; neither has a standard error.
    """
    return {**_forget_quality(scores, reference), **_privleak(scores, reference)}


def _macro(scores: Scores, questions: Sequence[Question]) -> Measures:
    return {
        f"macro_{subject}": _measure(scored["macro_accuracy"])
        for subject, scored in scores.get("questions", {}).items()
        if _uneven(q.topic for q in questions if q.subject == subject and q.is_multiple_choice())
    }


def _uneven(topics: Iterable[str]) -> bool:
    return len(set(Counter(topics).values())) > 1


def _answered(generation: Mapping[str, Mapping[str, Any]]) -> Measures:
    return {
        f"rouge_{subject}" + ("" if kind == "answer" else f"_{kind}"): _measure(
            scored["value"], scored["standard_error"]
        )
        for subject, kinds in generation.items()
        for kind, scored in kinds.items()
    }


def _truth(scores: Scores) -> Measures:
    truth = scores.get("truth", {})
    found = {"truth_ratio_forget": truth["forget"][RATIO]} if "forget" in truth else {}
    told = {name: _measure(one["value"], one["standard_error"]) for name, one in found.items()}
    rouges = _rouges(scores.get("generation", {}).get("retain", {}))
    if not rouges or not truth.keys() >= set(UTILITY_SETS):
        return told
    probabilities, truths = (
        {name: truth[name][key]["value"] for name in UTILITY_SETS} for key in ("probability", RATIO)
    )
    return told | {"model_utility": _measure(model_utility(probabilities, rouges, truths))}


def _rouges(kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return ROUGE by set of TOFU; none if one of the sets was not asked."""
    names = {"retain": "answer", **{name: name.replace(" ", "_") for name in PLAIN_SETS}}
    if not kinds.keys() >= set(names.values()):
        return {}
    return {name: kinds[kind]["value"] for name, kind in names.items()}


def _forget_quality(scores: Scores, reference: Scores) -> Measures:
    both = [one.get("truth", {}).get("forget") for one in (scores, reference)]
    if not all(both):
        return {}
    return {"forget_quality": _measure(forget_quality(*(one[RATIO]["ratios"] for one in both)))}


def _membership(scores: Scores) -> Measures:
    found = {"auc_min_k": _auc(scores), "auc_min_k_retain": _auc(scores, "retain")}
    told = [(name, auc) for name, auc in found.items() if auc]
    return {name: _measure(auc["value"], auc["standard_error"]) for name, auc in told[:1]}


def _privleak(scores: Scores, reference: Scores) -> Measures:
    auc, of_reference = _auc(scores), _auc(reference)
    if not auc or not of_reference or of_reference["value"] == 1:
        return {}
    return {"privleak": _measure(privleak(auc["value"], of_reference["value"]))}


def _auc(scores: Scores, other: str = "holdout") -> Mapping[str, float] | None:
    return scores.get("membership", {}).get("auc", {}).get(other, {}).get("min_k")


def _measure(value: float, error: float | None = None) -> dict[str, Any]:
    return {"value": value, "standard_error": error}
