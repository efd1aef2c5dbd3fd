"""Algorithm 1, steps 4 and 5, for one method."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.unlearning.settings import Method, UnlearningSettings

if TYPE_CHECKING:
    from torch import nn

    from seuf.benchmarks.headline import HeadlineScorer
    from seuf.unlearning.algorithm import Unlearned
    from seuf.unlearning.judgement import Judgement

Records = list[dict[str, Any]]


def unlearn(
    base_model: LanguageModel,
    selected_experts: dict[str, Any],
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    method: Method,
    unlearning: UnlearningSettings,
    evaluation: ScoringSettings,
    seed: int,
    progress: Any,
) -> tuple[Any, pd.DataFrame, dict[str, float]]:
    """Unlearn the forget set by one method; keep the changed tensors of its best checkpoint."""
    from seuf.unlearning import algorithm

    progress = progress.given(questions, evaluation.model_dump())
    samples = algorithm.samples_of(
        base_model, texts_of(forget_set), texts_of(retain_set), unlearning
    )
    experts = experts_of(selected_experts, method)
    judge = judge_by("selection", base_model, questions, evaluation)
    treatment = algorithm.Treatment(samples, experts, method, unlearning, seed)
    done = algorithm.unlearn(base_model, treatment, judge, progress)
    return (
        _described(done, method, experts, seed),
        pd.DataFrame(done.log, columns=algorithm.LOG_COLUMNS),
        {"seconds": round(progress.seconds(), 2)},
    )


def judge_by(part: str, base: LanguageModel, questions: Records, settings: ScoringSettings) -> Any:
    """Return what judges a model by one part of the questions: `selection` or `test`."""
    from seuf.benchmarks.choices import chance
    from seuf.benchmarks.headline import HeadlineScorer
    from seuf.benchmarks.records import Question

    asked = [Question(**record) for record in questions if record["part"] == part]
    return partial(_judge, HeadlineScorer(base, asked, settings), chance(asked))


def _judge(scorer: HeadlineScorer, chance: float, model: nn.Module) -> Judgement:
    from seuf.unlearning.judgement import Judgement

    results = scorer.results(model)
    return Judgement(results["forget"], results["retain"], chance)


def experts_of(selected: dict[str, Any], method: Method) -> list[tuple[int, int]]:
    """Return the experts that the method's rule selected; none where it has no rule."""
    if method.selection is None:
        return []
    return [(layer, expert) for layer, expert in selected[method.selection]["experts"]]


def _described(done: Unlearned, method: Method, experts: list[tuple[int, int]], seed: int) -> Any:
    from dataclasses import replace

    about = {
        "experts": experts,
        "method": method.model_dump(),
        "seed": seed,
        "trained_share": done.trained_share,
    }
    return replace(done.delta, about=about)
