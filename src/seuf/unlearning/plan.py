"""What unlearning will need: passes, memory and disk, from settings and sizes alone.

Work is counted in tokens that pass all layers once without gradients, so that one measured rate
gives the time of everything; beside it stand the seconds that a pass takes however few its tokens
are. docs/studies.md holds both against runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from seuf.moe.footprint import BACKWARD, Footprint
from seuf.unlearning.esft import most_to_reach
from seuf.unlearning.needs import (
    Experts,
    Need,
    changed_bytes,
    first_layer,
    trained_parameters,
    waiting,
)
from seuf.unlearning.quantities import needs
from seuf.unlearning.rules import ESFT
from seuf.unlearning.settings import (
    Method,
    RoutingSettings,
    SelectionSettings,
    UnlearningSettings,
)

ADAM = 4 * 4  # bytes a trained parameter: float32 master, gradient and two moments
# Copies of what is trained, in the model's type: the original, the best, and a better one.
SNAPSHOTS = 3
Asked = tuple[int, float]  # tokens that pass, and in how many passes


def capture(model: Footprint, settings: RoutingSettings, tokens: int) -> Need:
    """Return what capturing the routing of a set of tokens needs."""
    taken = min(tokens, settings.max_tokens or tokens)
    batch = min(settings.batch_size * settings.max_length, taken)
    wait = waiting(model, taken / batch if batch else 0)
    return Need(taken, model.weights + model.pass_bytes(batch), waiting=wait)


def treated(
    model: Footprint, method: Method, settings: SelectionSettings, layer: int
) -> dict[int, int]:
    """Return how many experts of which layers a method treats: one, or of ESFT the most it can.

    How many ESFT takes is not known before routing: fewer, the less evenly tokens are spread.

    Args:
        model: Sizes of the base model.
        method: Which selection.
        settings: ESFT's threshold.
        layer: Decoder layer in which any other rule is assumed to choose.
    """
    if method.selection != ESFT:
        return {layer: 1}
    return {
        index: most_to_reach(size.experts, settings.esft_threshold)
        for index, size in enumerate(model.layers)
        if size.expert
    }


def unlearning(
    model: Footprint,
    method: Method,
    settings: UnlearningSettings,
    experts: Experts,
    set_tokens: tuple[int, int],
    look: Asked,
) -> Need:
    """Return what one method needs; with ESFT's experts, see `treated`, the most.

    The work of experts in training, which is done a second time, is not in `tokens`.

    Args:
        model: Sizes of the base model.
        method: Which scope and objective.
        settings: The budget.
        experts: How many are under treatment, by decoder layer.
        set_tokens: Tokens of the set to forget and of the one to keep.
        look: What passes in one look: selection questions and routing probe.
    """
    if method.objective is None:
        return Need(0, model.weights)
    run = _Run(model, method, settings, experts, set_tokens, look)
    return Need(
        run.tokens,
        run.device,
        run.memory,
        changed_bytes(model, method, experts),
        waiting(model, run.passes, adapted=method.scope == "lora"),
    )


def evaluation(
    model: Footprint, method: Method, experts: Experts, asked: Asked, batch: int
) -> Need:
    """Return what answering questions with a method's delta needs.

    Args:
        model: Sizes of the base model.
        method: Its changed tensors stand beside those of the base.
        experts: See `unlearning`.
        asked: What passes.
        batch: Tokens in a pass at most.
    """
    tokens, passes = asked
    logits = 3 * 4 * batch * model.vocabulary  # the harness keeps logits and their softmax
    return Need(
        tokens * (1 + model.head_share()),
        model.weights + changed_bytes(model, method, experts) + model.pass_bytes(batch) + logits,
        waiting=waiting(model, passes),
    )


@dataclass(frozen=True)
class _Run:
    """One method's training, learning rate after learning rate."""

    model: Footprint
    method: Method
    settings: UnlearningSettings
    experts: Experts
    set_tokens: tuple[int, int]
    look: Asked

    @property
    def tokens(self) -> float:
        a_step = self.step * (self.layers_a_step + self.heads_a_step)
        return self.steps * a_step + self.beforehand + self.look[0] * self.looks

    @property
    def passes(self) -> float:
        groups = self.beforehand / (2 * self.batch)  # twice a batch passes at once
        return self.steps * self.layers_a_step + groups + self.look[1] * self.looks

    @property
    def device(self) -> int:
        model, step = self.model, self.step
        trained = trained_parameters(model, self.method, self.experts)
        held = model.weights + (ADAM + SNAPSHOTS * model.itemsize) * trained
        held += model.training_bytes(step, self.first, self.to)
        held += 0 if self.is_rmu else model.loss_bytes(step)
        if self.method.scope == "lora":
            held += model.adapter_bytes(step, self.to)
        if self.method.scope == "experts":
            held += sum(
                model.slice_bytes(step, layer, count) for layer, count in self.experts.items()
            )
        return held

    @property
    def memory(self) -> int:
        kept = (sum(self.used) if self.cached else 0) + (self.referenced if self.is_rmu else 0)
        return self.model.hidden_size * self.model.itemsize * kept

    @cached_property
    def quantities(self) -> set[str]:
        return needs(str(self.method.objective))[0]

    @property
    def is_rmu(self) -> bool:
        return "forget_hidden" in self.quantities

    @property
    def steps(self) -> int:
        return self.settings.steps * len(self.method.learning_rates)

    @property
    def batch(self) -> int:
        """Tokens of one set in a step."""
        return (self.method.batch_size or self.settings.batch_size) * self.settings.max_length

    @property
    def sets(self) -> int:
        return 2 if any(name.startswith("retain") for name in self.quantities) else 1

    @property
    def step(self) -> int:
        return self.sets * self.batch

    @property
    def used(self) -> list[int]:
        """Tokens of the samples that some step takes, of each set."""
        drawn = self.settings.steps * self.batch
        return [min(drawn, tokens) for tokens in self.set_tokens[: self.sets]]

    @property
    def referenced(self) -> int:
        """Tokens of which the original's numbers are needed: NPO's to forget, RMU's to keep."""
        if "forget_reference_nll" in self.quantities:
            return self.used[0]
        return self.used[1] if "retain_reference_hidden" in self.quantities else 0

    @property
    def first(self) -> int:
        return first_layer(self.model, self.method, self.experts)

    @property
    def last(self) -> int:
        return len(self.model.layers) - 1

    @property
    def to(self) -> int:
        """The last layer that a step passes."""
        if not self.is_rmu:
            return self.last
        in_experts = self.method.scope == "experts"
        return max(self.experts) if in_experts else self.settings.objectives.rmu_layer

    @property
    def cached(self) -> bool:
        return self.settings.prefix_cache and self.first > 0

    @property
    def layers_a_step(self) -> float:
        below = 0.0 if self.cached else self.model.share(0, self.first - 1)
        return below + (1 + BACKWARD) * self.model.share(self.first, self.to)

    @property
    def heads_a_step(self) -> float:
        return 0.0 if self.is_rmu else 2 * self.model.head_share()

    @property
    def beforehand(self) -> float:
        """Tokens that pass before the first step: what lies below, and the original's numbers."""
        below = self.model.share(0, self.first - 1) if self.cached else 0.0
        above = self.model.share(self.first, self.to)
        return sum(self.used) * below + self.referenced * above

    @property
    def looks(self) -> float:
        """Looks as whole passes: the first one, and those that share what lies below."""
        looks = -(-self.settings.steps // self.settings.evaluate_every)
        first = self.first if self.cached else 0
        return 1 + looks * len(self.method.learning_rates) * self.model.share(first, self.last)
