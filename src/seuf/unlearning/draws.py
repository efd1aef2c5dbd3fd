"""The samples of both sets, and which of them each step takes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from seuf.inputs import InputError


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

    def both(self) -> list[list[int]]:
        """Return the samples to forget, then those to keep."""
        return [*self.forget, *self.retain]


@dataclass(frozen=True)
class Draw:
    """Positions of the samples in one step's batches, among the samples of both sets."""

    forget: list[int]
    retain: list[int]


def draws(samples: Samples, steps: int, batch_size: int, seed: int) -> list[Draw]:
    """Return which samples each step takes: both sets shuffled anew each time they are used up."""
    first = len(samples.forget)
    forget = _endless(range(first), random.Random(f"forget {seed}"))
    retain = _endless(range(first, len(samples.both())), random.Random(f"retain {seed}"))
    return [
        Draw([next(forget) for _ in range(batch_size)], [next(retain) for _ in range(batch_size)])
        for _ in range(steps)
    ]


def used_by(draws: list[Draw], needed: set[str]) -> list[int]:
    """Return the positions of all samples that pass the model in some step."""
    both = any(name.startswith("retain") for name in needed)
    return union(d.forget for d in draws) + (union(d.retain for d in draws) if both else [])


def union(parts: Iterable[list[int]]) -> list[int]:
    """Return the positions that are in any of the parts, in order."""
    return sorted(set().union(*parts))


def _endless(positions: range, rng: random.Random) -> Iterator[int]:
    while True:
        order = list(positions)
        rng.shuffle(order)
        yield from order
