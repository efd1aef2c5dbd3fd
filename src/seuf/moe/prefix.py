"""Run only the layers that are needed.

What lies below the trained layer gives the same for the same tokens every time: `frozen_prefix`
puts that in instead of computing it. What lies above the wanted layer is not needed at all:
`stop_after` ends the pass there. Everything else, masks, positions, kinds of layers, norm and
head, stays the model's own code, so that the rest of the pass is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seuf.moe.architectures import decoder, decoder_layer


class Reached:
    """Filled when the pass gets to where it ends: `hidden` (B, T, d)."""

    hidden: Tensor


class _Stop(Exception):  # noqa: N818 - not an error but the way out
    def __init__(self, reached: Reached) -> None:
        self.reached = reached


@contextmanager
def stop_after(model: nn.Module, layer_index: int) -> Iterator[Reached]:
    """End the context's body when decoder layer `layer_index` has run; no layer above it runs.

    What leaves the layer is then in `hidden` of what the context gave.

    Raises:
        InputError: If the model has no such layer.
    """
    with stop_at(decoder_layer(model, layer_index)) as reached:
        yield reached


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


@contextmanager
def frozen_prefix(model: nn.Module, layer_index: int, hidden: Tensor) -> Iterator[None]:
    """Let the layers below `layer_index` pass, and give `hidden` to that layer.

    Inside the context call the model as ever, with the batch that `hidden` was computed from.
    Layers that pass are not even loaded if they are offloaded.

    Args:
        model: A causal language model, called without a key-value cache.
        layer_index: First decoder layer that runs.
        hidden: What enters it, (B, T, d).

    Raises:
        InputError: If the model has no such layer.
    """
    target = decoder_layer(model, layer_index)
    below = list(decoder(model).layers)[:layer_index]
    with patched_forward(dict.fromkeys(below, _pass_on)):
        handle = target.register_forward_pre_hook(_replace_by(hidden), with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def patched_forward(replacements: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
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


@torch.no_grad()
def hidden_before(
    model: nn.Module, layer_index: int, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Return what enters decoder layer `layer_index`, (B, T, d); that layer does not run."""
    reached = Reached()

    def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        reached.hidden = hidden_of(args, kwargs)
        raise _Stop(reached)

    handle = decoder_layer(model, layer_index).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        decoder(model)(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    except _Stop:
        return reached.hidden
    finally:
        handle.remove()
    raise RuntimeError(f"The forward pass did not come to layer {layer_index}.")


def hidden_of(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Return the hidden states among what a decoder layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def _pass_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


def _replace_by(hidden: Tensor) -> Callable[..., Any]:
    def replace(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    return replace
