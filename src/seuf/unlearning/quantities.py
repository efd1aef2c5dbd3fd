"""What objectives ask for by name: losses and activations of a step, and the original model's.

The original model is never held beside the one in training. What is needed of it is computed
before the first step, once, while the weights are still its own.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from seuf.errors import InputError
from seuf.moe.batches import Batch, pad
from seuf.moe.loss import token_nll
from seuf.moe.models import LanguageModel
from seuf.moe.prefix import hidden_after
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.objectives import OBJECTIVES, Hidden, TokenNLL


@dataclass(frozen=True)
class Samples:
    """Token ids of the samples to forget and of those to keep.

    Raises:
        InputError: If one of the sets is empty.
    """

    forget: list[list[int]]
    retain: list[list[int]]

    def __post_init__(self) -> None:
        for name, samples in (("forget", self.forget), ("retain", self.retain)):
            if not samples:
                raise InputError(f"The {name} set has no sample of two tokens or more.")


@dataclass(frozen=True)
class Draw:
    """Positions of the samples in one step's batches."""

    forget: list[int]
    retain: list[int]


class Quantities:
    """The quantities of one training run.

    Args:
        language_model: In its original state when this is created.
        samples: What is drawn from.
        draws: What each step takes.
        layer: Decoder layer whose output RMU steers.
        steering: RMU's target (d,).
        anchor: Watches the forget passes.
        needed: Names of the quantities that will be asked for.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        samples: Samples,
        draws: list[Draw],
        layer: int,
        steering: Tensor,
        anchor: Anchor,
        needed: set[str],
    ) -> None:
        self.language_model, self.samples, self.draws = language_model, samples, draws
        self.layer, self.steering, self.anchor = layer, steering, anchor
        with torch.no_grad():
            self.references = {
                name: [getattr(self.at(step), f"original_{name}") for step in range(len(draws))]
                for name in sorted(needed & {"forget_reference_nll", "retain_reference_hidden"})
            }

    def at(self, step: int) -> Step:
        """Return the quantities of one step, each computed when it is first asked for."""
        return Step(self, step)

    def batch(self, samples: list[list[int]], positions: list[int]) -> Batch:
        """Return some of the samples as a batch."""
        return pad([samples[p] for p in positions], self.language_model.padding)


class Step:
    """One step's batches and what the model makes of them."""

    def __init__(self, run: Quantities, step: int) -> None:
        draw = run.draws[step]
        self.run, self.step = run, step
        self.model = run.language_model.model
        self.forget = run.batch(run.samples.forget, draw.forget)
        self.retain = run.batch(run.samples.retain, draw.retain)

    @cached_property
    def forget_nll(self) -> TokenNLL:
        """Token losses of the forget batch; the anchor watches this pass."""
        with self.run.anchor.watching(self.forget.attention_mask):
            return TokenNLL(*token_nll(self.model, self.forget))

    @cached_property
    def retain_nll(self) -> TokenNLL:
        """Token losses of the retain batch."""
        return TokenNLL(*token_nll(self.model, self.retain))

    @cached_property
    def forget_hidden(self) -> Hidden:
        """Activations of the forget batch; the anchor watches this pass."""
        with self.run.anchor.watching(self.forget.attention_mask):
            return self._hidden(self.forget)

    @cached_property
    def retain_hidden(self) -> Hidden:
        """Activations of the retain batch."""
        return self._hidden(self.retain)

    @property
    def forget_reference_nll(self) -> Tensor:
        """The original model's NLL sum of each forget sequence (B,)."""
        return self.run.references["forget_reference_nll"][self.step]

    @property
    def retain_reference_hidden(self) -> Tensor:
        """The original model's activations of the retain batch (B, T, d)."""
        hidden = self.run.references["retain_reference_hidden"][self.step]
        return hidden.to(self.retain_hidden.values.device).float()

    @property
    def steering(self) -> Tensor:
        """RMU's target (d,)."""
        return self.run.steering.to(self.forget_hidden.values.device)

    @property
    def original_forget_reference_nll(self) -> Tensor:
        """What `forget_reference_nll` keeps; right only before the first update."""
        return TokenNLL(*token_nll(self.model, self.forget)).sums()

    @property
    def original_retain_reference_hidden(self) -> Tensor:
        """What `retain_reference_hidden` keeps, in the model's type; right as long as that."""
        return hidden_after(self.model, self.run.layer, self.retain).cpu()

    def _hidden(self, batch: Batch) -> Hidden:
        hidden = hidden_after(self.model, self.run.layer, batch).float()
        return Hidden(hidden, batch.attention_mask.bool().to(hidden.device))


def needs(objective: str) -> tuple[set[str], set[str]]:
    """Return the names of the quantities and of the numbers that an objective takes."""
    parameters = inspect.signature(OBJECTIVES[objective]).parameters.values()
    numbers = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {p.name for p in parameters} - numbers, numbers


def draws(samples: Samples, steps: int, batch_size: int, seed: int) -> list[Draw]:
    """Return which samples each step takes: both sets shuffled anew each time they are used up."""
    forget = _endless(len(samples.forget), random.Random(f"forget {seed}"))
    retain = _endless(len(samples.retain), random.Random(f"retain {seed}"))
    return [
        Draw([next(forget) for _ in range(batch_size)], [next(retain) for _ in range(batch_size)])
        for _ in range(steps)
    ]


def steering_vector(size: int, length: float, seed: int) -> Tensor:
    """Return c * u with u uniform in [0, 1)^d and scaled to length 1, as in wmdp rmu/unlearn.py."""
    direction = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return length * direction / direction.norm()


def _endless(count: int, rng: random.Random) -> Iterator[int]:
    while True:
        order = list(range(count))
        rng.shuffle(order)
        yield from order
