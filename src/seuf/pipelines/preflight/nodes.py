"""Report what a study will use and what its original model knows, before anything trains."""

from __future__ import annotations

import logging
from typing import Any

from seuf.benchmarks.preflight import PreflightSettings
from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.settings import UnlearningSettings

Records = list[dict[str, Any]]
log = logging.getLogger(__name__)


def preflight(
    base_model: LanguageModel,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    general_texts: Records,
    selected_experts: dict[str, Any],
    routing_capture: RoutingSettings,
    unlearning: UnlearningSettings,
    evaluation: ScoringSettings,
    preflight: PreflightSettings,
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Tell what will be used and what the original answers; stop on what cannot work.

    Returns:
        The facts: `sets` (for each the numbers of `texts`, `tokens`, `samples`, and tokens `cut`
        in unlearning and `cut_in_routing`), `asked` (see `ask_original`), `longest_question` and
        `positions` in tokens, `warnings`. And that the study may begin.

    Raises:
        InputError: If a sample or a question is longer than the model allows, too much would be
            cut, or nothing could be shown: see `doubts_of`.
    """
    from seuf.benchmarks.choices import check_questions
    from seuf.benchmarks.headline import questions_in_training
    from seuf.benchmarks.preflight import ask_original, check_fit, doubts_of
    from seuf.benchmarks.records import Question
    from seuf.moe.architectures import positions_of
    from seuf.reporting.preflight import lines

    asked = [Question(**record) for record in questions]
    check_questions(base_model.tokenizer, asked, evaluation)
    facts: dict[str, Any] = {
        "sets": {
            "forget": _facts_of_set(base_model, forget_set, unlearning, routing_capture),
            "retain": _facts_of_set(base_model, retain_set, unlearning, routing_capture),
            "general": _facts_of_texts(base_model, general_texts),
        },
        "longest_question": check_fit(base_model, asked, evaluation),
        "positions": positions_of(base_model.model),
    }
    of_paths = questions_in_training(asked, evaluation.path_questions)
    facts["asked"] = ask_original(base_model, of_paths, evaluation)
    for line in lines(facts, selected_experts):
        log.info("Preflight: %s", line)
    facts["warnings"] = doubts_of(facts["asked"], preflight)
    for sentence in facts["warnings"]:
        log.warning("Preflight: %s", sentence)
    return facts, {"passed": True}


def _facts_of_set(
    base: LanguageModel,
    records: Records,
    unlearning: UnlearningSettings,
    routing_capture: RoutingSettings,
) -> dict[str, int]:
    from seuf.moe.batches import text_lengths
    from seuf.unlearning.algorithm import samples_of

    texts = texts_of(records)
    lengths = text_lengths(base.tokenizer, texts)

    def cut(settings: UnlearningSettings | RoutingSettings) -> int:
        if settings.long_texts == "split":
            return 0
        return sum(max(length - settings.max_length, 0) for length in lengths)

    samples = samples_of(base, texts, unlearning, prompts_of(records))
    return {
        **_facts_of_texts(base, records),
        "samples": len(samples),
        "cut": cut(unlearning),
        "cut_in_routing": cut(routing_capture),
    }


def _facts_of_texts(base: LanguageModel, records: Records) -> dict[str, int]:
    from seuf.moe.batches import text_lengths

    lengths = text_lengths(base.tokenizer, texts_of(records))
    return {"texts": len(lengths), "tokens": sum(lengths), "cut": 0}
