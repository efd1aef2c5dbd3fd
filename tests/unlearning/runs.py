"""Short runs of Algorithm 1 on a tiny real model."""

from torch import nn

from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import Unlearned, unlearn
from seuf.unlearning.evaluations import Evaluation, Judge
from seuf.unlearning.settings import Experts, Method, UnlearningSettings
from tests.tiny import tiny_samples

FORGET, RETAIN = tiny_samples(5), tiny_samples(5, seed=1)
EXPERTS = [(1, 2)]
SETTINGS = UnlearningSettings(steps=4, batch_size=2, evaluate_every=2, probe_tokens=16, threads=1)


class FirstIsWorst:
    """A judge to whom the original is bad and every other state better, the later the better."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, model: nn.Module) -> Evaluation:
        self.seen += 1
        return Evaluation(forget_efficacy=1 / self.seen, utility=1.0, chance=0.0)


def method(scope: str = "experts", objective: str | None = "ga", **changes: object) -> Method:
    """Return a row of the methods table."""
    row = {"scope": scope, "objective": objective, "learning_rates": [1e-2]}
    if scope == "experts":
        row |= {"selection": "affinity", "anchor_weight": 1.0}
    return Method(**(row | changes))


def run(
    base: LanguageModel,
    of: Method,
    seed: int = 0,
    experts: Experts = EXPERTS,
    judge: Judge | None = None,
    **settings: object,
) -> Unlearned:
    """Return what a method changes."""
    shared = SETTINGS.model_copy(update=settings)
    return unlearn(base, FORGET, RETAIN, of, experts, judge or FirstIsWorst(), shared, seed)
