"""Give a model back as it was, whatever was put into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from seuf.moe.architectures import decoder


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Give a decoder's layers back their modules, parameters and flags after the context.

    Their order too: a pass through adapters takes parameters out and puts them in again, last.
    Values are left as they are.
    """
    layers = decoder(model).layers
    kept = [(part, dict(part._modules), dict(part._parameters)) for part in layers.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for part, modules, parameters in kept:
            _refill(part._modules, modules)
            _refill(part._parameters, parameters)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        vars(layers).pop("peft_config", None)


def _refill(mapping: dict[str, Any], content: dict[str, Any]) -> None:
    mapping.clear()
    mapping.update(content)
