"""Steps that train all of a model, or LoRA on all of it, in processes that share it, a GPU each.

    torchrun --standalone --nproc-per-node 8 -m bench.sharded --shape deepseek --objective npo
    torchrun --standalone --nproc-per-node 8 -m bench.sharded --shape mixtral --scope lora
    python -m bench.sharded --shape olmoe --layers 6   # one GPU: what fits beside AdamW's states

Each process prints seconds and tokens a second of a step, the share of the matrix products' peak,
and its peak memory, beside what `kedro plan` says one GPU would need. Weights are random, the calls
are those of the stage `unlearn`. That several processes write what one writes:

    export CUT="--shape qwen --layers 2 --device cpu --dtype float32 --rate 1e-3"
    python -m bench.sharded $CUT --write one.pt
    torchrun --standalone --nproc-per-node 2 -m bench.sharded $CUT --against one.pt

On CPUs memory is all that the process has taken, from its start on, and no peak is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bench import floors, shapes
from bench.measure import machine, peak, reset_peak, wait
from seuf.moe import sharding
from seuf.plan import method_memory
from seuf.unlearning.algorithm import eq4_step
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.settings import Method, UnlearningSettings

WARM_UP = 2
# Passes that a step needs of a set: forward, and backward for the weights, their inputs or both.
PASSES = {"everything": 3, "lora": 2}


def main() -> None:
    """Measure in this process, or in this one among those that share the model."""
    options = _options()
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    row = Method(
        scope=options.scope,
        objective=options.objective,
        batch_size=options.batch,
        learning_rates=[options.rate],
    )
    settings = UnlearningSettings(
        steps=WARM_UP + options.steps,
        max_length=options.length,
        sharded=sharding.ranks(),
        threads=options.threads,
    )
    line, changed = measure(options, device, row, settings)
    print(json.dumps(line), flush=True)  # noqa: T201
    if sharding.rank() == 0 and options.write:
        torch.save(changed, options.write)
    if sharding.rank() == 0 and options.against:
        other = torch.load(options.against)
        print(json.dumps(compare(changed, other)), flush=True)  # noqa: T201
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(
    options: argparse.Namespace, device: torch.device, row: Method, settings: UnlearningSettings
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a step takes, and the tensors that all of them changed."""
    empty = shapes.empty(options.shape, _dtype(options), options.layers)
    planned = method_memory(empty, row, settings, []).device
    needed = _flops(empty, options)
    best = machine(device.type).flops if device.type == "cuda" else None
    model = _model(options, device)
    words = model.config.vocab_size
    count = settings.steps * options.batch
    forget, retain = (shapes.samples(count, options.length, words, seed) for seed in (0, 1))
    with open_scope(model, row, [], 0) as scope:
        original = scope.snapshot()
        passes = ForwardPasses(
            shapes.with_stub(model), forget, retain, row, settings, scope.first_layer, 1, 0
        )
        with scope:
            step = eq4_step(scope, passes, Anchor(model, []), row, settings, options.rate)
            for number in range(settings.steps):
                if number == WARM_UP:
                    wait(device.type)
                    reset_peak(device.type)
                    start = time.perf_counter()
                numbers = step(passes.batch(number))
            wait(device.type)
            seconds = (time.perf_counter() - start) / options.steps
        used = peak(device.type)
        changed = scope.changed(original)
    return {
        "shape": options.shape,
        "layers": model.config.num_hidden_layers,
        "method": f"{options.scope} {options.objective}",
        "processes": sharding.ranks(),
        "rank": sharding.rank(),
        "ms": round(1e3 * seconds, 1),
        "tokens/s": round(_tokens(options) / seconds),
        "of peak": best and round(needed / seconds / best / sharding.ranks(), 3),
        "peak GB": round(used / 1e9, 2),
        "planned for one GB": round(planned / 1e9, 2),
        "changed tensors": len(changed),
        "loss": numbers.tolist(),
    }, changed


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Any]:
    """Return how far apart two sets of changed tensors are, each difference over its tensor."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())[:9]
    apart = {
        path: float((tensor.float() - theirs[path].float()).norm() / tensor.float().norm())
        for path, tensor in ours.items()
    }
    equal = sum(int(tensor.eq(theirs[path]).sum()) for path, tensor in ours.items())
    worst = max(apart, key=lambda path: apart[path])
    return {
        "compared": len(apart),
        "equal numbers": round(equal / sum(tensor.numel() for tensor in ours.values()), 4),
        "furthest apart": apart[worst],
        "there": worst,
        "sum": sum(float(tensor.double().sum()) for tensor in ours.values()),
        "sum of the other": sum(float(tensor.double().sum()) for tensor in theirs.values()),
    }


def _tokens(options: argparse.Namespace) -> int:
    """Return the tokens of a step: of both sets, for GA of one."""
    tokens: int = options.batch * options.length * (1 if options.objective == "ga" else 2)
    return tokens


def _flops(empty: Any, options: argparse.Namespace) -> float:
    """Return the operations of a step's matrix products."""
    tokens = _tokens(options)
    forward = floors.layers(empty, 0, empty.config.num_hidden_layers, tokens)
    return PASSES[options.scope] * (forward + floors.head(empty, tokens)).flops


def _model(options: argparse.Namespace, device: torch.device) -> Any:
    """Return the model, or the part of it that this process holds."""
    if sharding.ranks() == 1:
        return shapes.build(options.shape, str(device), _dtype(options), options.layers).model
    model: Any = None
    if sharding.rank() == 0:
        model = shapes.empty(options.shape, _dtype(options), options.layers).to_empty(device="cpu")
        shapes.fill(model, "cpu", drawn_on=str(device))
    return sharding.shard(model, device)


def _dtype(options: argparse.Namespace) -> torch.dtype:
    """Return of which type the weights are."""
    dtype: torch.dtype = getattr(torch, options.dtype)
    return dtype


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sharded", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shape", choices=shapes.SHAPES, default="olmoe")
    parser.add_argument("--layers", type=int, help="the first ones alone; default: all")
    parser.add_argument("--scope", choices=PASSES, default="everything")
    parser.add_argument("--objective", choices=["ga", "gdiff", "npo"], default="gdiff")
    parser.add_argument("--batch", type=int, default=4, help="samples of each set (default 4)")
    parser.add_argument("--length", type=int, default=512, help="tokens a sample (default 512)")
    parser.add_argument("--steps", type=int, default=10, help="measured after two (default 10)")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate (default 1e-5)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--threads", type=int, default=4, help="of a process (default 4)")
    parser.add_argument("--write", metavar="FILE", help="for the tensors that were changed")
    parser.add_argument("--against", metavar="FILE", help="to compare them with")
    return parser.parse_args()


if __name__ == "__main__":
    main()
