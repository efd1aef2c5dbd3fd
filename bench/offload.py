"""A model larger than the device: its layers lie in CPU memory and come when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Any

import torch
from accelerate import cpu_offload
from tqdm import tqdm

from bench import shapes
from bench.measure import cost, peak, reset_peak, wait
from bench.steps import Run, one_expert
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import by_length
from seuf.moe.forward import keep_on_device
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import capture_routing
from seuf.unlearning.objectives import is_steered
from seuf.unlearning.scopes import selected_experts


def build(shape: str, device: str, dtype: torch.dtype) -> LanguageModel:
    """Return a model in CPU memory that runs on a device, made there a layer at a time."""
    model = shapes.empty(shape, dtype)
    layers = decoder(model).layers
    for layer in tqdm(layers, desc="building", disable=None):
        _make(layer, device)
    decoder(model).layers = torch.nn.ModuleList()
    _make(model, device)
    decoder(model).layers = layers
    cpu_offload(model, execution_device=torch.device(device))
    return shapes.with_stub(model)


def offload(
    base: LanguageModel, device: str, batch: int, length: int, limit: float | None
) -> Iterator[dict[str, Any]]:
    """Yield seconds and peak device memory of capture, of the prefix, and of steps."""
    layers = moe_layers(base.model)
    samples = shapes.samples(64, length, base.model.config.vocab_size)
    before = reset_peak(device)
    captured = cost(
        partial(capture_routing, base.model, list(by_length(samples, 64, 0))), device, 1, warm=0
    )
    rate = 64 * length / captured.seconds
    yield {"part": "capture", "seconds": captured.seconds, "tok/s": rate, "peak GB": _gb(device)}
    for place, objective in ((layers[len(layers) // 2], "rmu"), (layers[-1], "gdiff")):
        run = one_expert(base, place.index, objective, batch, length, steps=100)
        yield from _steps(base, run, device, limit)
    assert before <= peak(device)


def _steps(
    base: LanguageModel, run: Run, device: str, limit: float | None
) -> Iterator[dict[str, Any]]:
    layer, objective = run.experts[0][0], str(run.method.objective)
    with keep_on_device(base.model, [layer], head=not is_steered(objective)):
        scope, number = selected_experts(base.model, run.experts), count()
        made: list[Any] = []
        reset_peak(device)
        prefix = cost(lambda: made.append(run.passes(base, scope)), device, 1, warm=0)
        yield {
            "part": f"prefix of layer {layer}",
            "seconds": prefix.seconds,
            "peak GB": _gb(device),
        }
        if limit is not None and device == "cuda":
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(limit * 1e9 / total)
        with scope, run.step(base, scope, made[0]) as update:
            reset_peak(device)
            step = cost(lambda: update(made[0].batch(next(number))), device, 30, warm=8)
        held = {"part": f"step of {objective}", "seconds": step.seconds, "peak GB": _gb(device)}
        yield held | {"limit GB": limit}
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    wait(device)


def _make(module: torch.nn.Module, device: str) -> None:
    """Give a module weights on the device, then put it in CPU memory."""
    module.to_empty(device=device)
    shapes.fill(module, device)
    module.to("cpu")


def _gb(device: str) -> float:
    return peak(device) / 1e9
