"""What a look at a sandbox model costs: `python -m bench.looks --base data/01_raw/sandbox_base`.

A look asks all questions of both parts. Beside it, in turns and in CPU seconds: the choices of the
same questions, the loss on general text, and generation, which gives the same answers. Without a
base the model is untrained, of the sandbox's shape: no answer ends, so generation takes all its
tokens.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("TQDM_DISABLE", "1")

import torch

from seuf.benchmarks.answers import greedy_answers
from seuf.benchmarks.headline import HeadlineScorer
from seuf.benchmarks.records import BenchmarkData
from seuf.benchmarks.sandbox import SandboxSettings, prepare
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.activations import SharedPrefix
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.loss import mean_nll
from seuf.moe.settings import ExternalModelSettings, PretrainingSettings
from seuf.moe.training import new_model, train_tokenizer

GENERAL_TEXTS = 64


def main() -> None:
    """Measure every way in turns, and print the median of each and its share of the first."""
    options = _options()
    torch.set_num_threads(options.threads)
    world = prepare(SandboxSettings(), seed=0)
    base = _base(options.base, world)
    ways = _ways(base, world)
    with SharedPrefix(base.model, options.frozen):
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.times + 1):
            for name, way in ways.items():
                start = time.process_time()
                way()
                seconds[name].append(time.process_time() - start)
    print(f"{len(world.questions)} questions, {options.threads} threads")  # noqa: T201
    first = median(next(iter(seconds.values()))[1:])
    for name, taken in seconds.items():
        value = median(taken[1:])  # the first turn warms up
        print(f"  {name:32} {value:7.3f} s  {value / first:6.2f}")  # noqa: T201


def _ways(base: LanguageModel, world: BenchmarkData) -> dict[str, Callable[[], object]]:
    produced, choices = ScoringSettings(headline="produced"), ScoringSettings()
    asked = [question for question in world.questions if question.is_produced()]
    prompts = [question.question for question in asked]
    said, chosen = (
        HeadlineScorer(base, world.questions, settings) for settings in (produced, choices)
    )
    tokens = max(len(one.continuation) for one in said.produced.references) + 1
    texts = [text.text for text in world.general[:GENERAL_TEXTS]]
    return {
        "a look, produced answers": lambda: said.right(base.model),
        "a look, choices": lambda: chosen.right(base.model),
        f"loss of {len(texts)} texts": lambda: mean_nll(base, texts),
        "produced answers, generated": lambda: greedy_answers(base, prompts, produced, tokens),
    }


def _base(folder: Path | None, world: BenchmarkData) -> LanguageModel:
    if folder is not None:
        return load_model(ExternalModelSettings(path=str(folder), dtype="float32", device="cpu"))
    tokenizer = train_tokenizer([text.text for text in world.pretraining], 2048)
    return LanguageModel(new_model(PretrainingSettings(), len(tokenizer)).eval(), tokenizer)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="folder of the sandbox's base")
    parser.add_argument("--frozen", type=int, default=0, help="layers that do not change")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
