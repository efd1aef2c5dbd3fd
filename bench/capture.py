"""Routing capture beside the bare decoder, and beside what transformers itself offers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from bench import floors, shapes
from bench.measure import Machine, cost, wait
from seuf.moe.architectures import decoder
from seuf.moe.batches import by_length
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import capture_routing

BATCHES = 2


def capture(
    base: LanguageModel, machine: Machine, device: str, sizes: list[int], length: int
) -> Any:
    """Yield rates in tokens a second for each batch size."""
    model, vocabulary = base.model, base.model.config.vocab_size
    for size in sizes:
        batches = list(by_length(shapes.samples(BATCHES * size, length, vocabulary), size, 0))
        inputs = [batch.inputs(torch.device(device)) for batch in batches]
        tokens = BATCHES * size * length
        floor = floors.layers(model, 0, len(decoder(model).layers), tokens).seconds(machine)
        with torch.no_grad():
            bare = cost(partial(_pass, decoder(model), inputs), device)
        ours = cost(partial(capture_routing, model, batches), device)
        yield {
            "batch": f"{size}x{length}",
            "decoder tok/s": tokens / bare.seconds,
            "capture tok/s": tokens / ours.seconds,
            "overhead": ours.seconds / bare.seconds - 1,
            "of floor": floor / ours.seconds,
            "peak GB": ours.peak / 1e9,
        }
        if size == sizes[-1]:
            with torch.no_grad():
                flag = cost(partial(_pass, model, inputs, output_router_logits=True), device, 3, 1)
            yield {"batch": f"{size}x{length}", "output_router_logits tok/s": tokens / flag.seconds}
    wait(device)


def _pass(model: Any, inputs: list[dict[str, Any]], **more: Any) -> None:
    for batch in inputs:
        model(**batch, use_cache=False, **more)
