"""Forget efficacy, utility and routing stability of one method."""

from __future__ import annotations

from typing import Any

from seuf.benchmarks.records import texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel
from seuf.pipelines.processes import may_use_processes

Records = list[dict[str, Any]]


def _processes(evaluation: ScoringSettings, **_: Any) -> tuple[str, int]:
    return "evaluation.devices", evaluation.devices


@may_use_processes(_processes)
def evaluate(
    base_model: LanguageModel,
    delta: Any,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    evaluation: ScoringSettings,
    passages: Records | None = None,
) -> dict[str, Any]:
    """Score one unlearned model: test questions, routing beside the original, what changed."""
    from seuf.benchmarks.answers import example_answers, example_questions
    from seuf.benchmarks.records import Question
    from seuf.moe.activations import SharedPrefix
    from seuf.moe.deltas import changed_share
    from seuf.moe.stability import probe_of

    forget, retain = texts_of(forget_set), texts_of(retain_set)
    lowest = delta.lowest_layer(base_model.model)
    length, tokens = evaluation.max_length, evaluation.probe_tokens
    with SharedPrefix(base_model.model, lowest):
        probe = probe_of(base_model, forget, retain, length, tokens, lowest)
        shown = example_questions([Question(**q) for q in questions if q["part"] == "test"])
        before = example_answers(base_model, shown, evaluation)
        with delta.applied_to(base_model.model) as model:
            scores = score(base_model, questions, evaluation, passages)
            after = example_answers(base_model, shown, evaluation)
            overlap = probe.overlap(model)
    examples = [
        {
            "subject": question.subject,
            "question": question.question,
            "reference": question.reference,
            "before": answer_before,
            "after": answer_after,
        }
        for question, answer_before, answer_after in zip(shown, before, after, strict=True)
    ]
    return {
        **scores,
        "examples": examples,
        "routing_overlap": overlap,
        "trained_share": delta.about["trained_share"],
        "changed_share": changed_share(base_model.model, delta),
        "changed_tensors": len(delta.tensors),
        "method": delta.about["method"],
        "experts": delta.about["experts"],
    }


@may_use_processes(_processes)
def score_reference(
    reference_model: LanguageModel,
    questions: Records,
    evaluation: ScoringSettings,
    passages: Records | None = None,
) -> dict[str, Any]:
    """Score the model that never saw what is to be forgotten: what unlearning is compared with."""
    return score(reference_model, questions, evaluation, passages)


def score(
    model: LanguageModel,
    questions: Records,
    evaluation: ScoringSettings,
    passages: Records | None = None,
) -> dict[str, Any]:
    """Return all scores of a model's answers and likelihoods, the headline first."""
    from seuf.benchmarks.headline import check_all_produced, headline
    from seuf.benchmarks.measures import measures
    from seuf.benchmarks.records import Passage, Question

    test_questions = [Question(**record) for record in questions if record["part"] == "test"]
    if evaluation.headline == "produced":
        check_all_produced(test_questions)
    multiple_choice = [question for question in test_questions if question.is_multiple_choice()]
    free = [question for question in test_questions if question.is_free_answer(evaluation.generate)]
    produced = [question for question in test_questions if question.is_produced()]
    compared = [question for question in test_questions if question.compares_likelihoods()]
    if evaluation.generate and not free:
        raise InputError(
            "evaluation.generate is true, but no question has a `reference` to compare an answer "
            "with; set it to false."
        )
    scores: dict[str, Any] = {}
    if multiple_choice:
        from seuf.benchmarks.harness import score_questions

        scores["questions"] = score_questions(model, multiple_choice, evaluation)
    if free:
        from seuf.benchmarks.answers import score_answers

        scores["generation"] = score_answers(model, free, evaluation)
    if produced:
        from seuf.benchmarks.produced import score_produced

        generation = scores.get("generation", {})
        scores["produced"] = score_produced(model, produced, evaluation, generation)
    if compared:
        from seuf.benchmarks.truth import score_truth

        scores["truth"] = score_truth(model, compared, evaluation)
    if passages:
        from seuf.benchmarks.membership import score_passages

        of_sets = [Passage(**record) for record in passages]
        scores["membership"] = score_passages(model, of_sets, evaluation)
    scores = {"headline": headline(scores, evaluation.headline), **scores}
    return {**scores, "measures": measures(scores, test_questions)}
