"""Run only the layers that are needed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from seuf.moe.architectures import decoder, input_device
from seuf.moe.batches import Batch


class _Reached(Exception):  # noqa: N818 - not an error but the way out
    """Ends a forward pass once the layer asked for has run; carries its output."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def hidden_after(model: nn.Module, layer_index: int, batch: Batch) -> Tensor:
    """Return what leaves decoder layer `layer_index`, (B, T, d); no layer above it runs."""

    def stop(module: nn.Module, args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    body = decoder(model)
    handle = body.layers[layer_index].register_forward_hook(stop)
    try:
        body(**batch.to(input_device(model))._asdict(), use_cache=False)
    except _Reached as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise RuntimeError(f"The forward pass did not go through layer {layer_index}.")
