"""Models of which a part lies in CPU memory or on disk, as accelerate's `device_map` has it.

Such a layer's tensors are empty (`meta`) but for the moment it runs. Capture needs no more than
that. What is trained must stay where it is: `resident` keeps chosen layers on their device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.hooks import AlignDevicesHook, SequentialHook
from torch import Tensor, nn

from seuf.moe.architectures import decoder, decoder_layer


@contextmanager
def resident(model: nn.Module, layer_indices: Iterable[int], head: bool = False) -> Iterator[None]:
    """Keep decoder layers on their device inside the context; after it they are as they were.

    What is written to an offloaded layer inside is gone after the context.

    Args:
        model: A model of which a part may be offloaded.
        layer_indices: The decoder layers.
        head: Keep what follows the decoder layers too: the last norm and the output head.
    """
    layers = [decoder_layer(model, index) for index in layer_indices]
    hooks = [pair for layer in layers for pair in _offloading(layer)]
    if head:
        hooks += _offloading_after_layers(model)
    for module, hook in hooks:
        hook.pre_forward(module)
        hook.offload = False
    try:
        yield
    finally:
        for module, hook in hooks:
            hook.offload = True
            hook.post_forward(module, None)


def is_offloaded(model: nn.Module) -> bool:
    """Tell if a part of the model is not where it will run."""
    return any(parameter.is_meta for parameter in model.parameters())


def stored_tensor(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the model's state, from where it is stored if it is offloaded."""
    if not tensor.is_meta:
        return tensor.detach()
    module, _, own = name.rpartition(".")
    for _, hook in _offloading(model.get_submodule(module), recurse=False):
        return hook.weights_map[own].detach()
    raise KeyError(f"{name} is empty: the model was not loaded")


def _offloading_after_layers(model: Any) -> Iterator[tuple[nn.Module, Any]]:
    before = {model.get_input_embeddings(), *decoder(model).layers.modules()}
    return (pair for pair in _offloading(model) if pair[0] not in before)


def _offloading(module: nn.Module, recurse: bool = True) -> Iterator[tuple[nn.Module, Any]]:
    for part in module.modules() if recurse else [module]:
        hook = getattr(part, "_hf_hook", None)
        for one in hook.hooks if isinstance(hook, SequentialHook) else [hook]:
            if isinstance(one, AlignDevicesHook) and one.offload:
                yield part, one
