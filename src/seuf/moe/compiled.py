"""Compile the parts of a model that lie between its routers.

A decoder layer spends more time on moving hidden states through memory than on its matrix
products. torch.compile joins those small operations. Routers, and modules that hold one, are left
as they are: what observes them must be called, whatever else is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn

from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.prefix import patched_forward

VARIANTS = 64  # of one piece: kinds of layers, with and without gradients


def compile_pieces(model: nn.Module) -> None:
    """Let the model run compiled between its routers, from the next pass on.

    Results are those of the model to rounding, and no longer to the bit.
    """
    torch._dynamo.config.recompile_limit = VARIANTS
    routers = {layer.router for layer in moe_layers(model)}
    for layer in decoder(model).layers:
        for piece in _pieces(layer, routers):
            piece.forward = torch.compile(piece.forward, dynamic=True)


def uncompiled(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context inside which a compiled model runs as it was written."""
    written = {
        module: module.forward._torchdynamo_orig_callable
        for module in model.modules()
        if hasattr(module.forward, "_torchdynamo_orig_callable")
    }
    return patched_forward(written)


def _pieces(module: nn.Module, routers: set[nn.Module]) -> Iterator[nn.Module]:
    """Yield the largest modules inside that neither are a router nor hold one."""
    for child in module.children():
        if child in routers:
            continue
        if routers.intersection(child.modules()):
            yield from _pieces(child, routers)
        else:
            yield child
