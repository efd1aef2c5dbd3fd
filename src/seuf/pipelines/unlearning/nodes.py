"""Algorithm 1, steps 4 and 5, for one method."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.unlearning.settings import Method, UnlearningSettings

if TYPE_CHECKING:
    from torch import nn

    from seuf.unlearning.algorithm import Evaluation, Judge

Records = list[dict[str, Any]]


def unlearn(
    base_model: LanguageModel,
    selected_experts: dict[str, Any],
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    general_texts: Records,
    method: Method,
    unlearning: UnlearningSettings,
    evaluation: ScoringSettings,
    seed: int,
) -> tuple[Any, pd.DataFrame, dict[str, float]]:
    """Unlearn the forget set by one method; keep the changed tensors of its best checkpoint."""
    from seuf.unlearning import algorithm

    start = time.perf_counter()
    forget, retain = (
        algorithm.samples_of(base_model, texts_of(records), unlearning, prompts_of(records))
        for records in (forget_set, retain_set)
    )
    experts = experts_of(selected_experts, method)
    judge = judge_of(base_model, questions, general_texts, evaluation)
    done = algorithm.unlearn(base_model, forget, retain, method, experts, judge, unlearning, seed)
    about = {
        "experts": experts,
        "method": method.model_dump(),
        "seed": seed,
        "trained_share": done.trained_share,
    }
    return (
        replace(done.delta, about=about),
        pd.DataFrame(done.log, columns=algorithm.LOG_COLUMNS),
        {"seconds": round(time.perf_counter() - start, 2)},
    )


def judge_of(
    base: LanguageModel, questions: Records, general_texts: Records, settings: ScoringSettings
) -> Judge:
    """Return what judges a model by the selection questions and tells of the test questions."""
    from seuf.benchmarks.choices import chance
    from seuf.benchmarks.headline import HeadlineScorer
    from seuf.benchmarks.records import Question
    from seuf.unlearning.algorithm import Evaluation

    asked = [Question(**record) for record in questions]
    parts = {part: [q for q in asked if q.part == part] for part in ("selection", "test")}
    scorers = {part: HeadlineScorer(base, of, settings) for part, of in parts.items()}
    guessing = {part: chance(of) for part, of in parts.items()}

    def judge(model: nn.Module) -> Evaluation:
        selection, test = (scorers[part].score(model) for part in parts)
        beside = {
            "test_forget_efficacy": test["forget"],
            "test_utility": test["retain"],
            "test_chance": guessing["test"],
            "test_retain": test["retain"],
        }
        return Evaluation(selection["forget"], selection["retain"], guessing["selection"], beside)

    return judge


def experts_of(selected: dict[str, Any], method: Method) -> list[tuple[int, int]]:
    """Return the experts that the method's rule selected; none where it has no rule."""
    if method.selection is None:
        return []
    return [(layer, expert) for layer, expert in selected[method.selection]["experts"]]
