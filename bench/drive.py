"""A study at its model's true shape, part by part, beside the memory that `kedro plan` tells.

Weights and texts are random, so scores mean nothing; time and memory are those of the real thing.
Every part is the library call that the study's node makes; questions are answered by the scorer
that judges checkpoints, which a test holds to lm-evaluation-harness.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench import shapes
from bench.measure import peak, reset_peak, wait
from seuf.benchmarks.headline import HeadlineScorer
from seuf.benchmarks.records import Question
from seuf.moe.architectures import moe_layers
from seuf.moe.batches import by_length
from seuf.moe.deltas import Delta
from seuf.moe.footprint import weight_bytes
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import capture_routing
from seuf.moe.training import train_tokenizer
from seuf.parameters import StudyParameters
from seuf.plan import method_memory
from seuf.unlearning.algorithm import Evaluation, unlearn
from seuf.unlearning.attribution import calibration_samples
from seuf.unlearning.selection import select_experts
from seuf.unlearning.settings import Method

QUESTIONS = 200
Samples = tuple[list[list[int]], list[list[int]]]
Row = dict[str, Any]


class Drive:
    """One study on one device.

    Args:
        shape: Of the model, a key of `shapes.SHAPES`.
        device: Where it runs.
        parameters: The study's.
        methods: Names of the methods to run.
    """

    def __init__(
        self, shape: str, device: str, parameters: StudyParameters, methods: list[str]
    ) -> None:
        self.device, self.parameters, self.methods = device, parameters, methods
        self.start = time.perf_counter()
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = shapes.build(shape, device, dtype).model
        self.base = LanguageModel(model, train_tokenizer(_texts(2000, 40, seed=0), 2048))
        self.weights = weight_bytes(model)

    def rows(self) -> Iterator[Row]:
        """Yield seconds and peak of each part; of unlearning beside the plan's."""
        yield self._row("load", self.weights)
        self._warm_up()
        yield self._row("warm up")
        yield self._capture()
        forget, retain = self.tables
        selected = select_experts(forget, retain, self.parameters.expert_selection, seed=0)
        yield self._row("select")
        samples = self._samples()
        questions = _questions(self.base)
        for name in self.methods:
            method = self.parameters.methods[name]
            experts = selected[method.selection].experts if method.selection else []
            yield from self._method(name, method, experts, samples, questions)

    def _warm_up(self) -> None:
        """Let libraries set themselves up and kernels be made, which happens once a machine."""
        capture_routing(self.base.model, by_length(self._drawn(16384, seed=9), 32, 0))
        few = self._drawn(4096, seed=10), self._drawn(4096, seed=11)
        method = Method(scope="experts", selection="affinity", objective="gdiff", anchor_weight=1.0)
        settings = self.parameters.unlearning.model_copy(update={"steps": 5, "batch_size": 2})
        last = [(moe_layers(self.base.model)[-1].index, 0)]
        unlearn(self.base, *few, method, last, lambda model: Evaluation(1, 1, 0), settings)

    def _capture(self) -> Row:
        settings = self.parameters.routing_capture
        tokens = settings.max_tokens or 100_000
        self.tables, begin = [], time.perf_counter()
        for seed in (0, 1):
            drawn = calibration_samples(self._drawn(tokens, seed), tokens, 0, "drawn")
            batches = by_length(drawn, settings.batch_size, self.base.padding)
            found = capture_routing(self.base.model, batches)
            self.tables.append(found)
        wait(self.device)
        rate = 2 * tokens / (time.perf_counter() - begin)
        return self._row(f"capture {2 * tokens:,} tokens, {rate:,.0f} a second")

    def _drawn(self, tokens: int, seed: int) -> list[list[int]]:
        length = self.parameters.routing_capture.max_length
        return shapes.samples(-(-tokens // length), length, self._words(), seed)

    def _method(
        self, name: str, method: Method, experts: Any, samples: Samples, questions: list[Row]
    ) -> Iterator[Row]:
        settings = self.parameters.unlearning
        judge = _EverBetter(self._scorer(questions, "selection"))
        planned = method_memory(self.base.model, method, settings, experts).device
        reset_peak(self.device)
        done = unlearn(self.base, *samples, method, experts, judge, settings)
        where = f" in layer {experts[0][0]}" if len(experts) == 1 else f", {len(experts)} experts"
        yield self._row(f"unlearn {name}{where if experts else ''}", planned)
        yield from self._delta(name, done.delta, questions)

    def _delta(self, name: str, delta: Delta, questions: list[Row]) -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            delta.save(path := Path(folder, "delta"))
            size = path.stat().st_size / 1e9
            yield self._row(f"save {name}, {size:.3g} GB")
            loaded = Delta.load(path)
        with loaded.applied_to(self.base.model) as model:
            self._scorer(questions, "test").right(model)
        yield self._row(f"apply {name}, answer {2 * QUESTIONS} questions")

    def _scorer(self, questions: list[Row], part: str) -> HeadlineScorer:
        asked = [Question(**record) for record in questions if record["part"] == part]
        return HeadlineScorer(self.base, asked, self.parameters.evaluation)

    def _samples(self) -> Samples:
        settings, words = self.parameters.unlearning, self._words()
        count = settings.steps * settings.batch_size
        forget, retain = (
            shapes.samples(min(count, 1000), settings.max_length, words, seed) for seed in (2, 3)
        )
        return forget, retain

    def _words(self) -> int:
        return len(self.base.tokenizer)

    def _row(self, part: str, planned: int | None = None) -> Row:
        wait(self.device)
        now = time.perf_counter()
        row: Row = {"part": part, "seconds": now - self.start, "peak GB": peak(self.device) / 1e9}
        if planned is not None:
            row["plan GB"] = planned / 1e9
        reset_peak(self.device)
        self.start = time.perf_counter()
        return row


class _EverBetter:
    """Scores as a study does, then calls each evaluation the best so far: a delta is made."""

    def __init__(self, scorer: HeadlineScorer) -> None:
        self.scorer, self.count = scorer, 0

    def __call__(self, model: Any) -> Evaluation:
        self.scorer.right(model)
        self.count += 1
        return Evaluation(1 / self.count, 1.0, chance=0.0)


def _questions(base: LanguageModel) -> list[Row]:
    """Return as many questions of each subject to select by, and to test with, one letter each."""
    texts = _texts(4 * QUESTIONS, 60, seed=1)
    kinds = [(subject, part) for part in ("selection", "test") for subject in ("forget", "retain")]
    return [
        Question(text, ["A", "B", "C", "D"], 0, "", *kinds[number % 4])._asdict()  # type: ignore[arg-type]
        for number, text in enumerate(texts)
    ]


def _texts(count: int, words: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    known = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 7))) for _ in range(3000)]
    return [" ".join(rng.choices(known, k=words)) for _ in range(count)]
