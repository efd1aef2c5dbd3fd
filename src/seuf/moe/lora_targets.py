"""What LoRA adapts of a decoder layer: all of its matrices but the router's."""

from __future__ import annotations

from torch import nn

from seuf.moe.architectures import MoELayer


def targets_in(
    layer: nn.Module, moe: MoELayer | None
) -> tuple[dict[str, nn.Linear], dict[str, nn.Parameter]]:
    """Return the linear layers and the fused expert tensors of a decoder layer, by name in it."""
    named = list(layer.named_modules())
    routers = set() if moe is None else set(moe.router.modules())
    linear = {name: m for name, m in named if isinstance(m, nn.Linear) and m not in routers}
    fused = {
        f"{name}.{own}": tensor
        for name, module in named
        if moe is not None and module is moe.experts
        for own, tensor in module.named_parameters(recurse=False)
        if tensor.dim() == 3
    }
    return linear, fused
