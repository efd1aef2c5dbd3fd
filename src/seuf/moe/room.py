"""Will a model fit? Asked before any weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil

from seuf.errors import InputError
from seuf.moe.loading_errors import LESS_MEMORY

if TYPE_CHECKING:
    import torch

GB = 1e9


def check_room(empty: Any, name: str, device: torch.device) -> None:
    """Raise if a model's weights alone are more than is free where they will go.

    On their way to a GPU they pass the CPU's memory whole.

    Args:
        empty: The model without its weights.
        name: What the study calls it.
        device: Where it will go.

    Raises:
        InputError: With both sizes.
    """
    if getattr(empty.config, "quantization_config", None) is not None:
        return  # the weights on disk are smaller than the empty model tells
    size = sum(parameter.nbytes for parameter in empty.parameters())
    for place, free in free_bytes(device).items():
        if size > free:
            raise InputError(
                f"The weights of the model {name!r} are {size / GB:.3g} GB in "
                f"{str(empty.dtype).removeprefix('torch.')}, and {free / GB:.3g} GB of {place} "
                f"are free: {LESS_MEMORY}."
            )


def free_bytes(device: torch.device) -> dict[str, int]:
    """Return what is free in each memory that a model passes to get to a device."""
    free = {"the CPU's memory": psutil.virtual_memory().available}
    if device.type != "cuda":
        return free
    import torch

    # what torch holds back for itself is free too
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return {f"{device}'s memory": torch.cuda.mem_get_info(device)[0] + held, **free}
