"""What objectives ask for by name: losses and activations of a step, and the original model's."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from seuf.moe.activations import HiddenStates
from seuf.unlearning.draws import Draw, union
from seuf.unlearning.objectives import OBJECTIVES, Anchor, Hidden, TokenNLL
from seuf.unlearning.trunk import Rows, Trunk


class Quantities:
    """The quantities of one training run.

    Args:
        trunk: Passes samples through the model, which is in its original state at first.
        draws: What each step takes.
        layer: Decoder layer whose output RMU steers.
        steering: RMU's target (d,).
        anchor: Watches the tokens to forget.
        needed: Names of the quantities that will be asked for.
    """

    def __init__(
        self,
        trunk: Trunk,
        draws: list[Draw],
        layer: int,
        steering: Tensor,
        anchor: Anchor,
        needed: set[str],
    ) -> None:
        self.trunk, self.draws, self.layer = trunk, draws, layer
        self.steering, self.anchor, self.needed = steering.to(trunk.device), anchor, needed
        self.sums: dict[int, Tensor] = {}
        self.hidden: HiddenStates | None = None
        if "forget_reference_nll" in needed:
            self.sums = trunk.nll_sums(union(draw.forget for draw in draws))
        if "retain_reference_hidden" in needed:
            self.hidden = trunk.hidden_states(union(draw.retain for draw in draws), layer)

    def feed(self, step: int) -> Feed:
        """Return what a step takes from outside the model: its samples, and their references."""
        draw = self.draws[step]
        both = any(name.startswith("retain") for name in self.needed)
        rows = self.trunk.rows(draw.forget + (draw.retain if both else []))
        sums = [self.sums[position] for position in draw.forget if self.sums]
        return Feed(
            rows,
            torch.stack(sums) if sums else None,
            self.hidden.batch(draw.retain, rows.input_ids.shape[1]) if self.hidden else None,
        )

    def at(self, feed: Feed) -> Step:
        """Return the quantities of one step, each computed when it is first asked for."""
        return Step(self, feed)


class Feed(NamedTuple):
    """What a step takes from outside the model, on its device.

    Attributes:
        rows: The samples to forget and then, if they are needed, as many to keep.
        forget_reference_nll: The original model's NLL sum of each sample to forget, (B,).
        retain_reference_hidden: The original model's activations of those to keep, (B, T, d).
    """

    rows: Rows
    forget_reference_nll: Tensor | None
    retain_reference_hidden: Tensor | None


class Step:
    """One step's quantities.

    Both sets pass the model together if both are needed; the anchor watches those to forget.
    """

    def __init__(self, run: Quantities, feed: Feed) -> None:
        self.run, self.feed = run, feed
        self.forget = slice(len(run.draws[0].forget))
        self.retain = slice(len(run.draws[0].forget), None)

    @property
    def forget_nll(self) -> TokenNLL:
        """Token losses of the forget batch."""
        return TokenNLL(*(part[self.forget] for part in self._nll))

    @property
    def retain_nll(self) -> TokenNLL:
        """Token losses of the retain batch."""
        return TokenNLL(*(part[self.retain] for part in self._nll))

    @property
    def forget_hidden(self) -> Hidden:
        """Activations of the forget batch."""
        return Hidden(*(part[self.forget] for part in self._hidden))

    @property
    def retain_hidden(self) -> Hidden:
        """Activations of the retain batch."""
        return Hidden(*(part[self.retain] for part in self._hidden))

    @property
    def forget_reference_nll(self) -> Tensor | None:
        """The original model's NLL sum of each forget sequence (B,)."""
        return self.feed.forget_reference_nll

    @property
    def retain_reference_hidden(self) -> Tensor | None:
        """The original model's activations of the retain batch (B, T, d)."""
        return self.feed.retain_reference_hidden

    @property
    def steering(self) -> Tensor:
        """RMU's target (d,)."""
        return self.run.steering

    @cached_property
    def _nll(self) -> TokenNLL:
        with self.run.anchor.watching(self._to_forget()):
            return self.run.trunk.nll(self.feed.rows)

    @cached_property
    def _hidden(self) -> Hidden:
        with self.run.anchor.watching(self._to_forget()):
            return self.run.trunk.hidden(self.feed.rows, self.run.layer)

    def _to_forget(self) -> Tensor:
        """Return which of the pass's tokens are to be forgotten, (B, T)."""
        mask = self.feed.rows.mask.clone()
        mask[self.retain] = False
        return mask


def needs(objective: str) -> tuple[set[str], set[str]]:
    """Return the names of the quantities and of the numbers that an objective takes."""
    parameters = inspect.signature(OBJECTIVES[objective]).parameters.values()
    numbers = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {p.name for p in parameters} - numbers, numbers


def steering_vector(size: int, length: float, seed: int) -> Tensor:
    """Return c * u with u uniform in [0, 1)^d and scaled to length 1, as in wmdp rmu/unlearn.py."""
    direction = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return length * direction / direction.norm()
