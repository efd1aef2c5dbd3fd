"""One method's training in numbers, before it happens: tokens, passes and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from seuf.moe.footprint import BACKWARD, Footprint
from seuf.unlearning.needs import Asked, Experts, first_layer, trained_parameters
from seuf.unlearning.quantities import needs
from seuf.unlearning.settings import Method, UnlearningSettings

ADAM = 4 * 4  # bytes a trained parameter: float32 master, gradient and two moments
# Copies of what is trained, in the model's type: the original, the best, and a better one.
SNAPSHOTS = 3


@dataclass(frozen=True)
class PlannedRun:
    """One method's training, learning rate after learning rate; arguments as in `unlearning`."""

    model: Footprint
    method: Method
    settings: UnlearningSettings
    experts: Experts
    set_tokens: tuple[int, int]
    look: Asked

    @property
    def tokens(self) -> float:
        """Tokens that pass the whole model, or as many as cost the same."""
        a_step = self.step * (self.layers_a_step + self.heads_a_step)
        return self.steps * a_step + self.beforehand + self.look[0] * self.looks

    @property
    def passes(self) -> float:
        """Passes through the whole model, or as many as wait the same."""
        groups = self.beforehand / (2 * self.batch)  # twice a batch passes at once
        return self.steps * self.layers_a_step + groups + self.look[1] * self.looks

    @property
    def device(self) -> int:
        """Bytes where the model runs."""
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
        """Bytes of hidden states that are kept in CPU memory."""
        kept = (sum(self.used) if self.cached else 0) + (self.referenced if self.is_rmu else 0)
        return self.model.hidden_size * self.model.itemsize * kept

    @cached_property
    def quantities(self) -> set[str]:
        """What the objective asks for."""
        return needs(str(self.method.objective))[0]

    @property
    def is_rmu(self) -> bool:
        """Whether the objective is made of activations."""
        return "forget_hidden" in self.quantities

    @property
    def steps(self) -> int:
        """Steps with all learning rates."""
        return self.settings.steps * len(self.method.learning_rates)

    @property
    def batch(self) -> int:
        """Tokens of one set in a step."""
        return (self.method.batch_size or self.settings.batch_size) * self.settings.max_length

    @property
    def sets(self) -> int:
        """How many sets pass in a step."""
        return 2 if any(name.startswith("retain") for name in self.quantities) else 1

    @property
    def step(self) -> int:
        """Tokens in a step."""
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
        """The first layer that is trained."""
        return first_layer(self.model, self.method, self.experts)

    @property
    def last(self) -> int:
        """The model's last layer."""
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
        """Whether what lies below the first trained layer is kept."""
        return self.settings.prefix_cache and self.first > 0

    @property
    def layers_a_step(self) -> float:
        """What a step costs of a whole pass, there and back."""
        below = 0.0 if self.cached else self.model.share(0, self.first - 1)
        return below + (1 + BACKWARD) * self.model.share(self.first, self.to)

    @property
    def heads_a_step(self) -> float:
        """What the output head costs of it."""
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
