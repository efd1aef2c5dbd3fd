"""Algorithm 1, steps 4 and 5, for one method."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.pipelines.processes import may_use_processes
from seuf.unlearning.settings import Method, UnlearningSettings, sharing

if TYPE_CHECKING:
    from seuf.unlearning.evaluations import Evaluation, Judge

Records = list[dict[str, Any]]


def _processes(
    method: Method, unlearning: UnlearningSettings, evaluation: ScoringSettings, **_: Any
) -> tuple[str, int]:
    """Return which setting asks for several processes to unlearn in, and for how many."""
    sharded = sharing(method, unlearning)
    if sharded == 1 and method.scope != "nothing":
        return "evaluation.devices", evaluation.devices
    return "unlearning.sharded", sharded


@may_use_processes(_processes)
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
    preflight_passed: object = None,
) -> tuple[Any, pd.DataFrame, dict[str, float]]:
    """Unlearn the forget set by one method; keep the changed tensors of its best checkpoint.

    `preflight_passed` makes the stage wait for the preflight where the study has one.
    """
    from seuf.unlearning import algorithm
    from seuf.unlearning.evaluations import LOG_COLUMNS

    start = time.perf_counter()
    forget, retain = (
        algorithm.samples_of(base_model, texts_of(records), unlearning, prompts_of(records))
        for records in (forget_set, retain_set)
    )
    experts = experts_of(selected_experts, method)
    judge = judge_of(base_model, questions, general_texts, evaluation)
    unlearned = algorithm.unlearn(
        base_model, forget, retain, method, experts, judge, unlearning, seed
    )
    about = {
        "experts": experts,
        "method": method.model_dump(),
        "seed": seed,
        "trained_share": unlearned.trained_share,
    }
    return (
        replace(unlearned.delta, about=about),
        pd.DataFrame(unlearned.log, columns=LOG_COLUMNS),
        {"seconds": round(time.perf_counter() - start, 2)},
    )


def judge_of(
    base: LanguageModel, questions: Records, general_texts: Records, settings: ScoringSettings
) -> Judge:
    """Return a judge by the selection questions that also reports the test questions."""
    from seuf.benchmarks.choices import check_questions
    from seuf.benchmarks.headline import HeadlineScorer, questions_in_training
    from seuf.benchmarks.records import Question, utility_subject
    from seuf.forgetting import pack_right
    from seuf.moe.loss import MeanNLL
    from seuf.unlearning.evaluations import Evaluation

    all_questions = [Question(**record) for record in questions]
    check_questions(base.tokenizer, all_questions, settings)
    scorer = HeadlineScorer(
        base, questions_in_training(all_questions, settings.path_questions), settings
    )
    utility = utility_subject(question.subject for question in all_questions)
    every = -(-len(general_texts) // settings.path_texts) or 1  # rounded up; 1 of no texts
    general = texts_of(general_texts)[::every]
    length, size = settings.max_length, settings.batch_size
    general_loss = MeanNLL(base, general, length, size) if general else None
    chance, test_chance = scorer.chance("selection"), scorer.chance("test")

    def judge(model: Any) -> Evaluation:
        right = scorer.right(model)
        means = {key: mean(values) for key, values in right.items()}
        beside: dict[str, float | str | None] = {
            "test_forget_efficacy": means["test", "forget"],
            "test_utility": means["test", utility],
            "test_chance": test_chance,
            "test_retain": means.get(("test", "retain")),
        }
        if general_loss is not None:
            beside["general_loss"] = general_loss(model)
        packed = {"forget": right["test", "forget"], "utility": right["test", utility]}
        for name, values in packed.items():
            if {*values} <= {0.0, 1.0}:  # ROUGE-L is neither right nor wrong
                beside[f"test_{name}_right"] = pack_right(values)
        return Evaluation(means["selection", "forget"], means["selection", utility], chance, beside)

    return judge


def experts_of(selected: dict[str, Any], method: Method) -> list[tuple[int, int]]:
    """Return the experts that the method's rule selected; none where it has no rule.

    Args:
        selected: What each rule chose, by its name; or what this method's trials chose.
        method: The method.
    """
    if method.selection is None:
        return []
    chosen = selected.get(method.selection, selected)
    return [(layer, expert) for layer, expert in chosen["experts"]]
