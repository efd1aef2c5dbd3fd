"""Train one expert of a fused stack, and nothing beside it.

Transformers 5 holds the experts of a layer in one tensor (E, ...). Asking for its gradient costs E
experts of memory, and a masked gradient is no protection: weight decay still moves every row. So
the expert is a view of its rows, and its part of the output is computed a second time, with
gradients, for the tokens that were routed to it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seuf.errors import InputError


class ExpertSlice:
    """One expert of a fused experts module as trainable views of the module's own storage.

    Inside the context a backward pass gives `parameters()` the gradients that the rows of the
    fused tensors would get; the forward pass is unchanged to the bit. An in-place update of the
    parameters is an update of the model.

    Args:
        experts: The fused experts module of one layer.
        index: Which expert, 0 <= index < E.

    Raises:
        InputError: If the layer has no expert of that index.
    """

    def __init__(self, experts: nn.Module, index: int) -> None:
        count = len(experts.get_parameter("down_proj"))
        if not 0 <= index < count:
            raise InputError(f"The layer has experts 0 to {count - 1}; there is no expert {index}.")
        self.experts, self.index = experts, index
        # .detach() shares the version counter (.data does not): autograd then notices an
        # optimizer step between forward and backward.
        self.tensors = {
            name: nn.Parameter(tensor.detach()[index])
            for name, tensor in experts.named_parameters(recurse=False)
            if tensor.dim() >= 2 and tensor.shape[0] == count
        }

    def parameters(self) -> list[nn.Parameter]:
        """Return the expert's trainable tensors."""
        return list(self.tensors.values())

    def __enter__(self) -> ExpertSlice:
        self._hook = self.experts.register_forward_hook(self._attach, with_kwargs=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hook.remove()

    def _attach(
        self, module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Tensor
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return out
        hidden, chosen, weights = _experts_inputs(args, kwargs)
        tokens, slots = torch.where(chosen == self.index)
        rows = _expert_output(module, hidden.detach()[tokens], self.tensors)
        rows = (rows * weights.detach()[tokens, slots, None]).to(out.dtype)
        return _SideChannel.apply(out, rows, tokens)


class _SideChannel(torch.autograd.Function):
    """The identity on `out` whose backward also sends the gradient of `tokens` to `rows`."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (tokens,) = ctx.saved_tensors
        return grad, grad.index_select(0, tokens), None


def _experts_inputs(args: tuple, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states (N, d), chosen experts (N, k) and their weights (N, k)."""
    hidden, chosen, weights = (*args, *kwargs.values())[:3]
    return hidden, chosen, weights


def _expert_output(module: Any, hidden: Tensor, tensors: dict[str, nn.Parameter]) -> Tensor:
    """Return one expert's output (n, d) with the module's own layout and activation."""
    gate_up = _linear(module, hidden, tensors, "gate_up_proj")
    return _linear(module, module._apply_gate(gate_up), tensors, "down_proj")


def _linear(module: nn.Module, x: Tensor, tensors: dict[str, nn.Parameter], name: str) -> Tensor:
    weight = tensors[name].t() if getattr(module, "is_transposed", False) else tensors[name]
    return F.linear(x, weight, tensors.get(f"{name}_bias"))
