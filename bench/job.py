"""A whole job: capture, select, unlearn with GDiff and with RMU, save the deltas."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import shapes
from bench.measure import peak, reset_peak, wait
from bench.steps import one_expert
from seuf.moe.batches import by_length
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import capture_routing
from seuf.unlearning.algorithm import Evaluation, unlearn
from seuf.unlearning.selection import select


def job(base: LanguageModel, device: str, tokens: int, batch: int, length: int) -> Iterator[Any]:
    """Yield the seconds and peak memory of each part, and of all."""
    begin = time.perf_counter()
    clock = _Clock(device)
    routing = [_routing(base, tokens // 2, length, seed) for seed in (0, 1)]
    yield clock.row(f"capture, {tokens} tokens")
    chosen = select(routing[0], routing[1], "affinity").experts[0]
    yield clock.row(f"select: layer {chosen[0]}, expert {chosen[1]}")
    for objective in ("gdiff", "rmu"):
        run = one_expert(base, chosen[0], objective, batch, length, steps=100, evaluate_every=100)
        done = unlearn(base, *run[:4], lambda model: Evaluation(1.0, 1.0, 0.0), run.settings)
        yield clock.row(f"100 steps of {objective}")
        with tempfile.TemporaryDirectory() as folder:
            done.delta.save(Path(folder, "delta"))
        yield clock.row("save the delta")
    yield {"part": "all", "seconds": time.perf_counter() - begin}


class _Clock:
    def __init__(self, device: str) -> None:
        self.device, self.start, self.before = device, time.perf_counter(), reset_peak(device)

    def row(self, part: str) -> dict[str, Any]:
        wait(self.device)
        now = time.perf_counter()
        used = (peak(self.device) - self.before) / 1e9
        row = {"part": part, "seconds": now - self.start, "peak GB above the weights": used}
        self.start, self.before = now, reset_peak(self.device)
        return row


def _routing(base: LanguageModel, tokens: int, length: int, seed: int) -> Any:
    count = -(-tokens // length)
    drawn = shapes.samples(count, length, base.model.config.vocab_size, seed)
    return capture_routing(base.model, by_length(drawn, 64, 0))
