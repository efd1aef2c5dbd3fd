"""Algorithm 1, step 3, by trial: see `seuf.unlearning.pilot`."""

from __future__ import annotations

import time
from statistics import mean
from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import prompts_of, texts_of
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.loading import LanguageModel
from seuf.unlearning.selection import SelectionSettings
from seuf.unlearning.settings import Method, PilotSettings, UnlearningSettings, pilot_rule

if TYPE_CHECKING:
    from seuf.unlearning.evaluations import Evaluation, Judge

Records = list[dict[str, Any]]


def choose_layer(
    base_model: LanguageModel,
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    forget_set: Records,
    retain_set: Records,
    questions: Records,
    method: Method,
    expert_selection: SelectionSettings,
    unlearning: UnlearningSettings,
    pilot: PilotSettings,
    evaluation: ScoringSettings,
    base_seed: int,
    seed: int,
    general_texts: Records | None = None,
    preflight_passed: object = None,
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, float]]:
    """Try a method in every layer for a few steps; choose the layer that keeps most utility.

    A sweep's table also has the test questions, the loss on the general texts, and columns that
    identify the run. `preflight_passed` makes the stage wait for the preflight where the study has
    one.
    """
    from seuf.pipelines.expert_selection.nodes import routing_table
    from seuf.pipelines.unlearning.nodes import judge_of
    from seuf.unlearning import pilot as trials
    from seuf.unlearning.algorithm import samples_of
    from seuf.unlearning.evaluations import LOG_COLUMNS
    from seuf.unlearning.selection import best_of_layers

    start = time.perf_counter()
    routing = routing_table(routing_forget), routing_table(routing_retain)
    rule = str(pilot_rule(method.selection))
    sweep = pilot.sweeps(method.objective)
    candidates = best_of_layers(*routing, rule, expert_selection.top, pilot.every)
    forget, retain = (
        samples_of(base_model, texts_of(records), unlearning, prompts_of(records))
        for records in (forget_set, retain_set)
    )
    if sweep:
        judge = judge_of(base_model, questions, general_texts or [], evaluation)
    else:
        judge = judge_by_selection(base_model, questions, evaluation)
    choice = trials.choose_layer(
        base_model, forget, retain, candidates, method, judge, unlearning, pilot, seed
    )
    chosen = {
        "experts": choice.experts,
        "rule": rule,
        "target": pilot.target,
        "layers": choice.layers,
        "steps": choice.steps,
        "evaluations": choice.evaluations,
    }
    table = pd.DataFrame(choice.trials, columns=["layer", "expert", *LOG_COLUMNS, "chosen"])
    if sweep:
        about = {"base": base_seed, "seed": seed, "objective": method.objective, "rule": rule}
        table = table.assign(**about)[[*about, *table.columns]]
    return chosen, table, {"seconds": round(time.perf_counter() - start, 2)}


def draw_beside(
    chosen_layer: dict[str, Any],
    trials: pd.DataFrame,
    trial_timing: dict[str, float],
    routing_forget: pd.DataFrame,
    base_seed: int,
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, float]]:
    """Draw another expert of the layer that trials chose: the random control of a pilot.

    The control has the pilot's trials.
    """
    from seuf.pipelines.expert_selection.nodes import routing_table
    from seuf.unlearning.selection import random_beside, seed_of_draw

    of_pilot = [(layer, expert) for layer, expert in chosen_layer["experts"]]
    draw = seed_of_draw(base_seed, seed)
    experts = random_beside(of_pilot, routing_table(routing_forget), draw).experts
    return chosen_layer | {"experts": experts}, trials, trial_timing


def judge_by_selection(base: LanguageModel, questions: Records, settings: ScoringSettings) -> Judge:
    """Return a judge by the selection questions alone."""
    from seuf.benchmarks.headline import HeadlineScorer
    from seuf.benchmarks.records import Question, utility_subject
    from seuf.unlearning.evaluations import Evaluation

    selection_questions = [
        Question(**record) for record in questions if record["part"] == "selection"
    ]
    scorer = HeadlineScorer(base, selection_questions, settings)
    utility = utility_subject(record["subject"] for record in questions)
    chance = scorer.chance("selection")

    def judge(model: Any) -> Evaluation:
        right = scorer.right(model)
        forget, kept = (mean(right["selection", subject]) for subject in ("forget", utility))
        return Evaluation(forget, kept, chance)

    return judge
