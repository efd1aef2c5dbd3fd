"""Steps of full GDiff on a model of OLMoE's shape that processes share, a GPU each.

    torchrun --standalone --nproc-per-node 2 -m bench.sharded [LAYERS [BATCH [LENGTH]]]
    python -m bench.sharded 6   # one GPU: all 16 layers do not fit beside AdamW's float32 states

Prints seconds and tokens a second of a step, and the peak memory of each GPU. Weights are random.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from bench.shapes import SHAPES
from seuf.moe import sharding
from seuf.moe.loading import LanguageModel
from seuf.unlearning.algorithm import eq4_step
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.settings import Method, UnlearningSettings

WARM_UP, STEPS = 2, 5


def main(layers: int = 16, batch: int = 8, length: int = 512) -> None:
    """Measure in this process, or in this one among those that share the model."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl")
    model = _model(layers, device) if sharding.rank() == 0 else None
    if sharding.ranks() > 1:
        model = sharding.shard(model, device)
    torch.cuda.empty_cache()
    base = LanguageModel(model, SimpleNamespace(pad_token_id=0, eos_token_id=0))  # type: ignore[arg-type]
    row = Method(scope="everything", objective="gdiff", batch_size=batch, learning_rates=[1e-5])
    settings = UnlearningSettings(steps=WARM_UP + STEPS, sharded=sharding.ranks(), threads=4)
    rng = random.Random(0)
    samples = [[rng.randrange(50304) for _ in range(length)] for _ in range(2 * batch)]
    with open_scope(base.model, row, [], 0) as scope, scope:
        passes = ForwardPasses(base, samples[:batch], samples[batch:], row, settings, 0, 1, 0)
        step = eq4_step(scope, passes, Anchor(base.model, []), row, settings, 1e-5)
        for number in range(WARM_UP + STEPS):
            if number == WARM_UP:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
            numbers = step(passes.batch(number))
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / STEPS
    line = {
        "gpus": sharding.ranks(),
        "rank": sharding.rank(),
        "layers": layers,
        "ms": round(1e3 * seconds, 1),
        "tokens/s": round(2 * batch * length / seconds),
        "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "loss": numbers.tolist(),
    }
    print(json.dumps(line), flush=True)  # noqa: T201
    if dist.is_initialized():
        dist.destroy_process_group()


@torch.no_grad()
def _model(layers: int, device: torch.device) -> Any:
    """Return the model: in CPU memory where processes are to share it."""
    config = AutoConfig.for_model(**{**SHAPES["olmoe"], "num_hidden_layers": layers})
    place = torch.device("cpu") if sharding.ranks() > 1 else device
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    rotary = type(model.model.rotary_emb)(config)  # what no checkpoint holds is computed
    model = model.to_empty(device=place).eval()
    model.model.rotary_emb = rotary.to(place)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, dtype=torch.bfloat16, device=device) * 0.02)
    return model


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
