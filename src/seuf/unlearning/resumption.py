"""Go on where a killed run was: what it had come to at its last look.

Between two looks a step depends on the tensors in training, AdamW's own numbers and the step's
number alone. With these back, a run on a CPU ends with the bits of one that was never killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from seuf.moe.activations import GB, half_of_free_memory
from seuf.moe.loading import LanguageModel
from seuf.unlearning.loop import Best
from seuf.unlearning.scopes import Scope
from seuf.unlearning.treatment import Treatment
from seuf.unlearning.updates import Updates

LARGEST = 8e9  # bytes to write at every look
BEST = "best."
log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """What is kept of a run.

    Attributes:
        tensors: By name.
        facts: Anything that JSON can hold.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Progress(Protocol):
    """Keeps one run outside this process; the same key means that it would end the same."""

    def load(self, key: str) -> Kept | None:
        """Return what was saved last under this key, if anything was."""

    def save(self, key: str, kept: Kept) -> None:
        """Put this in the place of what was saved before."""


class Resumption:
    """Saves how far a treatment has come, and takes up what an earlier process has saved.

    Args:
        progress: Where; with None nothing is kept.
        key: See `key_of`.
        scope: What is trained, at its original state.
        best: Is given what it was, its log too.
    """

    def __init__(self, progress: Progress | None, key: str, scope: Scope, best: Best) -> None:
        self.progress, self.key, self.best = progress, key, best
        if progress is not None and not _fits(scope):
            self.progress = None
        self.rate = self.step = 0
        self.kept = self.progress.load(key) if self.progress else None
        if self.kept is not None:
            self._take_up(self.kept, scope)

    def ahead(self, learning_rates: Sequence[float]) -> Iterator[float]:
        """Yield the learning rates that are not done with, the one under way first."""
        for rate in range(self.rate, len(learning_rates)):
            self.rate = rate
            yield learning_rates[rate]

    def begin(self, update: Updates) -> int:
        """Bring the updates of a learning rate to where they were; return the steps done."""
        kept, self.kept = self.kept, None
        if kept is None or not self.step:
            return 0
        update.restore(kept.tensors)
        log.info("Going on after step %d of learning rate %d", self.step, self.rate + 1)
        return self.step

    def keep(self, update: Updates, step: int, over: bool) -> None:
        """Save how things are after a look; `over` tells that the learning rate is done with."""
        if self.progress is None:
            return
        tensors = {f"{BEST}{place}": tensor for place, tensor in self.best.tensors.items()}
        tensors |= {} if over else update.state()  # the next one starts from the original
        at = {"rate": self.rate + 1, "step": 0} if over else {"rate": self.rate, "step": step}
        facts = {**at, "balance": self.best.balance, "log": self.best.log}
        self.progress.save(self.key, Kept(tensors, facts))

    def _take_up(self, kept: Kept, scope: Scope) -> None:
        facts, best = kept.facts, self.best
        self.rate, self.step = facts["rate"], facts["step"]
        best.balance, best.log = facts["balance"], facts["log"]
        best.tensors = {
            place: kept.tensors[f"{BEST}{place}"].to(tensor.device, copy=True)
            for place, tensor in scope.trained.items()
        }


def key_of(base: LanguageModel, digest: str, treatment: Treatment) -> str:
    """Return what tells a treatment of a model from any other: 64 characters.

    Args:
        base: The model.
        digest: Its digest.
        treatment: What is done.
    """
    parts = {
        "base": [digest, base.model.device.type],
        "samples": asdict(treatment.samples),
        "experts": treatment.experts,
        "method": treatment.method.model_dump(),
        "settings": treatment.settings.model_dump(),
        "seed": treatment.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _fits(scope: Scope) -> bool:
    """Tell if what is to be kept is small enough to be copied and written at every look."""
    masters = sum(3 * master.nbytes for master in scope.masters.values())  # and two moments each
    size = masters + sum(tensor.nbytes for tensor in scope.trained.values())
    limit = min(LARGEST, half_of_free_memory())
    if size > limit:
        log.warning(
            "A killed run will start afresh: what it has come to is %.3g GB, at most %.3g GB are "
            "kept.",
            size / GB, limit / GB,
        )  # fmt: skip
    return size <= limit
