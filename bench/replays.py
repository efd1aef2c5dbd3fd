"""How far two runs of one method part: `python -m bench.replays --shape qwen --device cuda`.

Weights and texts are random. The last look counts as the best, so that all steps are in the delta.
What `kedro audit --replay` allows on a GPU, `TOLERANCE` of `seuf.audit.replay`, rests on this.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
import transformers

from bench import shapes
from bench.measure import machine
from seuf.audit.replay import base_tensors, relative_differences
from seuf.moe.architectures import moe_layers
from seuf.moe.deltas import Delta
from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import Evaluation, unlearn
from seuf.unlearning.settings import Method, UnlearningSettings


def main() -> None:
    """Run each method as often as asked; print how far they part."""
    options = _options()
    transformers.logging.set_verbosity_error()
    torch.use_deterministic_algorithms(options.deterministic)
    base = shapes.build(options.shape, options.device, getattr(torch, options.dtype))
    name = machine(options.device).name
    print(f"{name}; torch {torch.__version__}; {options.shape}, {options.dtype}")  # noqa: T201
    for objective in options.objectives:
        for what, seconds, parted in _parted(base, objective, options):
            worst = max(parted, key=lambda key: parted[key])
            told = f"{parted[worst]:.2g} of the change of {worst}, {seconds:.1f} s"
            print(f"  {objective:6} {what:10} {told}", flush=True)  # noqa: T201


def _parted(
    base: LanguageModel, objective: str, options: Any
) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yield what a further run was, how long it took, and its differences from the first."""
    first = _run(base, objective, options, seed=0)
    before = base_tensors(base.model, first)
    kinds = [("again", 0)] * (options.times - 1) + [("other seed", 1)] * options.other_seed
    for what, seed in kinds:
        start = time.perf_counter()
        made = _run(base, objective, options, seed)
        yield what, time.perf_counter() - start, relative_differences(made, first, before)


def _run(base: LanguageModel, objective: str, options: Any, seed: int) -> Delta:
    layer = moe_layers(base.model)[0].index + 1
    words = min(options.words, base.model.config.vocab_size)
    method = Method(
        scope="experts",
        selection="affinity",
        objective=objective,
        anchor_weight=1.0,
        learning_rates=[options.rate],
        steering_coefficient=8000 if objective == "rmu" else None,
    )
    settings = UnlearningSettings(
        steps=options.steps,
        batch_size=options.batch,
        max_length=options.length,
        evaluate_every=options.steps,
        threads=options.threads,
    )
    forget, retain = (
        shapes.samples(options.steps * options.batch, options.length, words, seed)
        for seed in (0, 1)
    )
    evaluations = count(1)  # each is better than the one before
    return unlearn(
        base,
        forget,
        retain,
        method,
        [(layer, 0)],
        lambda model: Evaluation(1 / next(evaluations), 1.0, chance=0.0),
        settings,
        seed,
    ).delta


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.replays", description=__doc__)
    parser.add_argument("--shape", choices=sorted(shapes.SHAPES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--objectives", nargs="+", default=["ga", "gdiff", "npo", "rmu"])
    parser.add_argument("--times", type=int, default=3, help="runs of each")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4, help="samples of each set in a step")
    parser.add_argument("--length", type=int, default=512, help="tokens in a sample")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--other-seed", action="store_true", help="run once with another")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--words", type=int, default=30_000, help="of the vocabulary, used")
    return parser.parse_args()


if __name__ == "__main__":
    main()
