"""The measures of a model beside forget efficacy and utility, by their names in tables and metrics.

`measures` needs the model's scores alone, `beside` also those of a reference model that never saw
what is to be forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seuf.benchmarks.records import ANSWER_KINDS, Question
from seuf.benchmarks.truth_ratios import (
    PLAIN_SETS,
    UTILITY_SETS,
    forget_quality,
    model_utility,
)

Scores = Mapping[str, Any]
Measures = dict[str, dict[str, Any]]
RATIO = "truth_ratio_geometric"
# The kind of question whose ROUGE is part of model utility, by set of TOFU.
UTILITY_KINDS = {"retain": "answer", **{name: name.replace(" ", "_") for name in PLAIN_SETS}}


def measures(scores: Scores, questions: Sequence[Question]) -> Measures:
    """Return the measures that are not in the headline, each with `value` and `standard_error`.

    - `choices_<subject>` (share of right choices) or `produced_<subject>` (share of right answers):
      the one that is not the headline; `choices_<kind>` for a kind that never is.
    - `nll_<subject>`: NLL of the references in nats a token.
    - `rouge_<subject>`, `rouge_<subject>_<kind>`: ROUGE of free answers; with `_first_line` that of
      their first lines, where it differs.
    - `macro_<subject>`: the mean over topics, where these differ in size.
    - `truth_ratio_forget`, `model_utility`: of TOFU.
    - `auc_min_k`: membership inference against texts never seen; without such texts
      `auc_min_k_retain`, against texts that were learned and kept.
    """
    return {
        **_of_subjects(scores),
        **_macro(scores, questions),
        **_rouge(scores.get("generation", {})),
        **_truth(scores),
        **_membership(scores),
    }


def beside(scores: Scores, reference: Scores) -> Measures:
    """Return the measures that need a reference model.

    `forget_quality` of TOFU and `privleak` of MUSE; neither has a standard error.
    """
    measured: Measures = {}
    truths = [one.get("truth", {}).get("forget") for one in (scores, reference)]
    if all(truths):
        quality = forget_quality(*(truth[RATIO]["ratios"] for truth in truths))
        measured["forget_quality"] = _measure(quality)
    auc, of_reference = _auc(scores, "holdout"), _auc(reference, "holdout")
    if auc and of_reference and of_reference["value"] != 1:
        measured["privleak"] = _measure(privleak(auc["value"], of_reference["value"]))
    return measured


def privleak(auc: float, reference_auc: float) -> float:
    """Return PrivLeak of MUSE (Shi et al. 2024, arXiv 2407.06460) in percent.

    It is 0 if texts to forget look as known as after retraining, negative if they look more known,
    positive if less. As in locuslab/open-unlearning d3d7cf9, src/evals/metrics/privacy.py.

    Args:
        auc: The unlearned model's AUC as in `membership`: the chance that a text to forget looks
            better known than one that was never seen.
        reference_auc: The same of the model that never saw either; less than 1.
    """
    return privleak_of_muse(1 - auc, 1 - reference_auc)


def privleak_of_muse(auc: float, reference_auc: float) -> float:
    """Return PrivLeak in percent from AUCs as MUSE defines them: high where texts look unknown.

    swj0419/muse_bench 75d1762, eval.py: `forget_holdout_Min-40%` beside `AUC_RETRAIN`.

    Args:
        auc: The unlearned model's: the chance that a text that was never seen looks better known
            than one to forget.
        reference_auc: The same of the model that never saw either; more than 0.
    """
    return (auc - reference_auc) / reference_auc * 100


def _of_subjects(scores: Scores) -> Measures:
    """Return the measures of whole subjects that are not their headline."""
    shown, measured = scores.get("headline", {}), {}
    for subject, scored in scores.get("questions", {}).items():
        shown_as = shown.get(subject, scored).get("measure", "accuracy")
        if subject in ANSWER_KINDS or shown_as != "accuracy":
            accuracy = _measure(scored["accuracy"], scored["standard_error"])
            measured[f"choices_{subject}"] = accuracy
    for subject, scored in scores.get("produced", {}).items():
        if shown.get(subject, {}).get("measure") != scored["measure"]:
            measured[f"produced_{subject}"] = _measure(scored["value"], scored["standard_error"])
        measured[f"nll_{subject}"] = _measure(**scored["nll"])
    return measured


def _macro(scores: Scores, questions: Sequence[Question]) -> Measures:
    measured = {}
    for subject, scored in scores.get("questions", {}).items():
        asked = [q for q in questions if q.scored_as() == subject and q.is_multiple_choice()]
        sizes = Counter(question.topic for question in asked)
        if len(set(sizes.values())) > 1:
            measured[f"macro_{subject}"] = _measure(scored["macro_accuracy"])
    return measured


def _rouge(generation: Mapping[str, Mapping[str, Any]]) -> Measures:
    measured = {}
    for subject, by_kind in generation.items():
        for kind, scored in by_kind.items():
            name = f"rouge_{subject}" + ("" if kind == "answer" else f"_{kind}")
            measured[name] = _measure(scored["value"], scored["standard_error"])
            if line := scored.get("first_line"):
                measured[f"{name}_first_line"] = _measure(line["value"], line["standard_error"])
    return measured


def _truth(scores: Scores) -> Measures:
    truth, measured = scores.get("truth", {}), {}
    if "forget" in truth:
        ratio = truth["forget"][RATIO]
        measured["truth_ratio_forget"] = _measure(ratio["value"], ratio["standard_error"])
    by_kind = scores.get("generation", {}).get("retain", {})
    if by_kind.keys() >= set(UTILITY_KINDS.values()) and truth.keys() >= set(UTILITY_SETS):
        probabilities, truths = (
            {name: truth[name][key]["value"] for name in UTILITY_SETS}
            for key in ("probability", RATIO)
        )
        rouges = {name: by_kind[kind]["value"] for name, kind in UTILITY_KINDS.items()}
        measured["model_utility"] = _measure(model_utility(probabilities, rouges, truths))
    return measured


def _membership(scores: Scores) -> Measures:
    for name, group in (("auc_min_k", "holdout"), ("auc_min_k_retain", "retain")):
        if auc := _auc(scores, group):
            return {name: _measure(auc["value"], auc["standard_error"])}
    return {}


def _auc(scores: Scores, group: str) -> Mapping[str, float] | None:
    return scores.get("membership", {}).get("auc", {}).get(group, {}).get("min_k")


def _measure(value: float, standard_error: float | None = None) -> dict[str, Any]:
    return {"value": value, "standard_error": standard_error}
