"""How a method's model is evaluated while it trains, and the path that its evaluations make.

A judge scores the selection questions, which choose the checkpoint, and may report more. Each
evaluation is a row of the path, with the share forgotten (`seuf.forgetting`) and the overlap of
routing with the original's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from seuf.forgetting import ROUNDING, preference, share_forgotten
from seuf.inputs import InputError
from seuf.moe.activations import SharedPrefix
from seuf.moe.loading import LanguageModel
from seuf.moe.sharding import agreed
from seuf.moe.stability import RoutingProbe, first_tokens
from seuf.unlearning.scopes import Scope
from seuf.unlearning.settings import UnlearningSettings

# What an evaluation may report beside the selection questions: it is logged and decides nothing.
BESIDE = [
    "test_forget_efficacy",
    "test_utility",
    "test_chance",
    "test_forgotten",
    "test_retain",
    "general_loss",
    "test_forget_right",
    "test_utility_right",
]
UNMOVED = {"forget": 1.0, "retain": 1.0}  # overlap of the original's routing with itself
STEP_COLUMNS = ["learning_rate", "step", "loss", "anchor", "gradient_norm"]
STEP_NUMBERS = STEP_COLUMNS[2:]  # l_f + lambda l_r; alpha L_anchor; norm before clipping
LOG_COLUMNS = [
    *STEP_COLUMNS,
    "forget_efficacy",
    "utility",
    "chance",
    "forgotten",
    *BESIDE,
    "overlap_forget",
    "overlap_retain",
    "kept",
    "stopped",
]


@dataclass(frozen=True)
class Evaluation:
    """How a model answers the selection questions, and what else a judge reports.

    Attributes:
        forget_efficacy: Share of right answers about what is to be forgotten, or how well free
            answers agree with their references; lower is better.
        utility: The same on the other questions; higher is better.
        chance: Forget efficacy of guessing, the best that unlearning can reach; 0 without choices.
        beside: By names of `BESIDE`: the same on the test questions, utility on the retain set's
            topics, the general loss (nats a token), and which test questions were answered rightly,
            see `seuf.forgetting.pack_right`.
    """

    forget_efficacy: float
    utility: float
    chance: float
    beside: Mapping[str, float | str | None] = field(default_factory=dict)


Judge = Callable[[nn.Module], Evaluation]


class EvaluationPath:
    """The evaluations of a method in their order, and its best checkpoint so far.

    Args:
        original: The evaluation of the untouched model, which is no candidate.
        target: Share forgotten that a checkpoint must reach to be chosen by its utility.

    Attributes:
        tensors: Trained tensors of the best checkpoint; None before the first evaluation.
        log: One row an evaluation, with the keys `LOG_COLUMNS`.
    """

    def __init__(self, original: Evaluation, target: float) -> None:
        self.original, self.target = original, target
        self.tensors: dict[str, Tensor] | None = None
        self.log: list[dict[str, Any]] = []
        self._best: tuple[float, ...] = ()

    def add(
        self,
        step_numbers: Mapping[str, float],
        evaluation: Evaluation,
        overlap: Mapping[str, float],
        scope: Scope | None = None,
    ) -> float | None:
        """Log an evaluation, keep its tensors if it is the best, and return the share forgotten.

        Args:
            step_numbers: By names of `STEP_COLUMNS`.
            evaluation: The evaluation of the model as it is now.
            overlap: Overlap of routing with the original's, on `forget` and on `retain`.
            scope: The tensors in training; None for the original.
        """
        beside, original = dict[str, Any](evaluation.beside), self.original
        forgotten = share_forgotten(
            evaluation.forget_efficacy, original.forget_efficacy, original.chance
        )
        if "test_forget_efficacy" in beside:
            before: Any = original.beside["test_forget_efficacy"]
            beside["test_forgotten"] = share_forgotten(
                beside["test_forget_efficacy"], before, beside["test_chance"]
            )
        row = dict.fromkeys(LOG_COLUMNS) | {
            **step_numbers,
            "forget_efficacy": evaluation.forget_efficacy,
            "utility": evaluation.utility,
            "chance": evaluation.chance,
            "forgotten": forgotten,
            **beside,
            **{f"overlap_{name}": value for name, value in overlap.items()},
            "kept": False,
        }
        preferred = preference(forgotten, evaluation.utility, self.target)
        if scope is not None and preferred > self._best:
            for earlier in self.log:
                earlier["kept"] = False
            self.tensors, self._best, row["kept"] = scope.snapshot(), preferred, True
        self.log.append(row)
        return forgotten

    def is_constant(self) -> bool:
        """Tell if there are three evaluations or more, with the original's, and all are alike."""
        judged = [
            (row["forget_efficacy"], row["utility"], row["general_loss"])
            for row in self.log
            if row["forget_efficacy"] is not None
        ]
        return len(judged) > 2 and len(set(judged)) == 1

    def is_over(self, stop_at: float) -> str | None:
        """Return why training ends, if two evaluations in a row have forgotten `stop_at`."""
        shares = [row["forgotten"] for row in self.log[-2:]]  # a rate's first row is the original
        reached = all(share is not None and share >= stop_at - ROUNDING for share in shares)
        return "forgotten" if reached else None

    def stop(self, why: str, step_numbers: Mapping[str, float] | None = None) -> None:
        """Log why training ended: in the last row, or in one for a step not evaluated."""
        if step_numbers is not None:
            self.log.append(dict.fromkeys(LOG_COLUMNS) | {**step_numbers, "kept": False})
        self.log[-1]["stopped"] = why


class Evaluator:
    """Judges the model as it is now, and compares its routing with the original's.

    Args:
        base: The model, in its original state.
        judge: Scores the model.
        forget: Token ids of the samples to forget.
        retain: Token ids of the samples to keep.
        settings: Tokens on which routing is compared, and whether prefixes are kept.
        first_layers: First decoder layer that each scope changes: one, or of trials in several
            layers one each. The layers below run once for all of them.
    """

    def __init__(
        self,
        base: LanguageModel,
        judge: Judge,
        forget: Sequence[Sequence[int]],
        retain: Sequence[Sequence[int]],
        settings: UnlearningSettings,
        first_layers: Sequence[int],
    ) -> None:
        self.model, self.judge, self.cached = base.model, judge, settings.prefix_cache
        lowest, highest = min(first_layers), max(first_layers) if self.cached else 0
        others = [layer for layer in first_layers if layer < highest]
        self.shared = SharedPrefix(base.model, highest, others=others)
        probed = [first_tokens(samples, settings.probe_tokens) for samples in (forget, retain)]
        with self.shared:
            self.probe = RoutingProbe(base.model, probed[0], probed[1], base.padding, lowest)

    def of(self, scope: Scope) -> Callable[[], tuple[Evaluation, dict[str, float]]]:
        """Return a function that evaluates the model while a scope is trained.

        It is valid until the next call of this method.
        """
        self.shared.layer_index = scope.first_layer if self.cached else 0
        probe = self.probe.beginning_at(scope.first_layer)

        def evaluate() -> tuple[Evaluation, dict[str, float]]:
            scope.follow()
            before = scope.sums_of_bits()
            with self.shared:
                evaluation, overlap = agreed((self.judge(self.model), probe.overlap(self.model)))
            check_evaluation(evaluation)
            after = scope.sums_of_bits()
            if changed := [path for path in before if before[path] != after[path]]:
                raise RuntimeError(
                    f"The judge wrote to {changed[0]}; it must not write to the model."
                )
            if self.model.training:
                raise RuntimeError("The judge left the model in training mode; call model.eval().")
            return evaluation, overlap

        return evaluate

    def original(self) -> Evaluation:
        """Return the evaluation of the original; call it before anything is trained."""
        with self.shared:
            return check_evaluation(self.judge(self.model))


def check_evaluation(evaluation: Any) -> Evaluation:
    """Return what a judge returned.

    Raises:
        InputError: If it is not an `Evaluation`.
    """
    if not isinstance(evaluation, Evaluation):
        raise InputError(f"The judge returned {evaluation!r}; it must return an Evaluation.")
    return evaluation
