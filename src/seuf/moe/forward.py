"""Control what runs in a forward pass, in which form, and on which device.

1. Only the layers that are needed: frozen layers at the bottom give the same hidden states for the
   same tokens every time, and `frozen_prefix` inserts those instead of computing them; `stop_after`
   ends the pass where nothing above is needed. Masks, positions, kinds of layers, norm and head
   stay the model's own code, so that the rest of the pass is the same to the bit.
2. Compiled or eager: `compile_pieces` and `uncompiled`.
3. Offloaded or not: accelerate's `device_map` may leave a layer in CPU memory or on disk, with
   empty (`meta`) tensors except while it runs. That is enough for a forward pass. Layers in
   training must stay on their device: `keep_on_device`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from torch import Tensor, nn

from seuf.moe.architectures import decoder, decoder_layer, moe_layers
from seuf.moe.sharding import settle, whole

COMPILED_VARIANTS = 64  # of one module: kinds of layers, with and without gradients


class Reached:
    """The end of a pass that is cut short; `hidden` (B, T, d) is set when it is reached."""

    hidden: Tensor


class _Stop(Exception):  # noqa: N818 - control flow, not an error
    def __init__(self, reached: Reached) -> None:
        self.reached = reached


def stop_after(model: nn.Module, layer_index: int) -> AbstractContextManager[Reached]:
    """End the context's body when decoder layer `layer_index` has run; no layer above it runs.

    The layer's output is then in `hidden` of the context's value.

    Raises:
        InputError: If the model has no such layer.
    """
    return stop_at(decoder_layer(model, layer_index))


@contextmanager
def stop_at(module: nn.Module) -> Iterator[Reached]:
    """End the context's body when `module` has run."""
    reached = Reached()

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        reached.hidden = output[0] if isinstance(output, tuple) else output
        raise _Stop(reached)

    handle = module.register_forward_hook(stop)
    try:
        yield reached
    except _Stop as end:
        if end.reached is not reached:
            raise
    finally:
        handle.remove()
        settle()


@torch.no_grad()
def hidden_before(
    model: nn.Module, layer_index: int, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Return the input of decoder layer `layer_index`, (B, T, d); that layer does not run."""
    return hidden_before_each(model, [layer_index], input_ids, attention_mask)[layer_index]


@torch.no_grad()
def hidden_before_each(
    model: nn.Module,
    layer_indices: Iterable[int],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
) -> dict[int, Tensor]:
    """Return the inputs of several decoder layers, (B, T, d); the pass ends at the last one."""
    layers = {index: decoder_layer(model, index) for index in sorted(layer_indices)}
    entering: dict[int, Tensor] = {}
    end = Reached()

    def keep(index: int, args: tuple, kwargs: dict[str, Any]) -> None:
        entering[index] = hidden_of(args, kwargs)
        if len(entering) == len(layers):
            raise _Stop(end)

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, index=index: keep(index, args, kwargs), with_kwargs=True
        )
        for index, layer in layers.items()
    ]
    try:
        decoder(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except _Stop:
        return entering
    finally:
        for handle in handles:
            handle.remove()
        settle()
    raise RuntimeError(f"The forward pass did not come to layer {max(layers)}.")


def hidden_of(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states among the arguments of a decoder layer."""
    return args[0] if args else kwargs["hidden_states"]


@contextmanager
def frozen_prefix(model: nn.Module, layer_index: int, hidden: Tensor) -> Iterator[None]:
    """Skip the layers below `layer_index`, and give `hidden` to that layer.

    Inside the context call the model as usual, with the batch that `hidden` was computed from.
    Skipped layers are not even loaded if they are offloaded.

    Args:
        model: A causal language model, called without a key-value cache.
        layer_index: First decoder layer that runs.
        hidden: Its input, (B, T, d).

    Raises:
        InputError: If the model has no such layer.
    """

    def skip(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states

    def replace(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    layer, below = decoder_layer(model, layer_index), list(decoder(model).layers)[:layer_index]
    with replaced_forward(dict.fromkeys(below, skip)):
        handle = layer.register_forward_pre_hook(replace, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def replaced_forward(replacements: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another `forward` inside the context."""
    own = {module: module.__dict__.get("forward") for module in replacements}
    for module, forward in replacements.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, before in own.items():
            del module.forward
            if before is not None:
                module.forward = before


def compile_pieces(model: nn.Module) -> None:
    """Compile the parts of a model that lie between its routers, from the next pass on.

    A decoder layer spends more time on moving hidden states through memory than on its matrix
    products; torch.compile joins those small operations. Routers, and modules that hold one, are
    left as they are: their hooks must run. Results are those of the model to rounding, and no
    longer to the bit.
    """
    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
    routers = {layer.router for layer in moe_layers(model)}
    for layer in decoder(model).layers:
        for piece in _without_routers(layer, routers):
            piece.forward = torch.compile(piece.forward, dynamic=True)


def _without_routers(module: nn.Module, routers: set[nn.Module]) -> Iterator[nn.Module]:
    """Yield the largest modules inside that neither are a router nor hold one."""
    for child in module.children():
        if child in routers:
            continue
        if routers.intersection(child.modules()):
            yield from _without_routers(child, routers)
        else:
            yield child


def uncompiled(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context inside which a compiled model runs eagerly."""
    written = {
        module: module.forward._torchdynamo_orig_callable
        for module in model.modules()
        if hasattr(module.forward, "_torchdynamo_orig_callable")
    }
    return replaced_forward(written)


@contextmanager
def keep_on_device(model: Any, layer_indices: Iterable[int], head: bool = False) -> Iterator[None]:
    """Keep decoder layers on their device inside the context, and offload them again after it.

    Writes to an offloaded layer are lost at the end of the context.

    Args:
        model: A model of which a part may be offloaded.
        layer_indices: The decoder layers.
        head: Keep what follows the decoder layers too: the last norm and the output head.
    """
    layers = [decoder_layer(model, index) for index in layer_indices]
    hooks = [pair for layer in layers for pair in _offloading_hooks(layer)]
    if head:
        before = {model.get_input_embeddings(), *decoder(model).layers.modules()}
        hooks += [pair for pair in _offloading_hooks(model) if pair[0] not in before]
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
    """Return whether a part of the model is offloaded."""
    return any(parameter.is_meta for parameter in model.parameters())


def stored_tensor(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor of the model's state, from where it is stored if it is offloaded."""
    if not tensor.is_meta:
        return whole(tensor.detach())
    module, _, own = name.rpartition(".")
    for _, hook in _offloading_hooks(model.get_submodule(module), recurse=False):
        return hook.weights_map[own].detach()
    raise KeyError(f"{name} is empty: the model was not loaded")


def _offloading_hooks(module: nn.Module, recurse: bool = True) -> Iterator[tuple[nn.Module, Any]]:
    for part in module.modules() if recurse else [module]:
        hook = getattr(part, "_hf_hook", None)
        for one in hook.hooks if isinstance(hook, SequentialHook) else [hook]:
            if isinstance(one, AlignDevicesHook) and one.offload:
                yield part, one
