"""Forget efficacy, utility and routing stability of one method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seuf.benchmarks.records import texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.models import LanguageModel

if TYPE_CHECKING:
    from seuf.benchmarks.records import Question

Records = list[dict[str, Any]]


def evaluate(
    base_model: LanguageModel,
    delta: Any,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    evaluation: ScoringSettings,
) -> dict[str, Any]:
    """Score one unlearned model: test questions, routing beside the original, what changed."""
    from seuf.benchmarks.harness import score_questions
    from seuf.benchmarks.records import Question
    from seuf.moe.deltas import changed_share
    from seuf.moe.shared_prefix import SharedPrefix
    from seuf.moe.stability import probe_of

    asked = [Question(**record) for record in questions if record["part"] == "test"]
    forget, retain = texts_of(forget_set), texts_of(retain_set)
    lowest = delta.lowest_layer(base_model.model)
    length, tokens = evaluation.max_length, evaluation.probe_tokens
    with SharedPrefix(base_model.model, lowest):
        probe = probe_of(base_model, forget, retain, length, tokens, lowest)
        with delta.applied_to(base_model.model) as model:
            scores = score_questions(base_model, asked, evaluation)
            generation = _generation(base_model, asked, evaluation)
            overlap = probe.overlap(model)
    return {
        "questions": scores,
        **generation,
        "routing_overlap": overlap,
        "trained_share": delta.about["trained_share"],
        "changed_share": changed_share(base_model.model, delta),
        "changed_tensors": len(delta.tensors),
        "experts": delta.about["experts"],
    }


def _generation(
    base_model: LanguageModel, asked: list[Question], evaluation: ScoringSettings
) -> dict[str, Any]:
    if not evaluation.generate:
        return {}
    from seuf.benchmarks.generation import score_answers

    return {"generation": score_answers(base_model, asked, evaluation)}
