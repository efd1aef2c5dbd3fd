"""Train one expert of a fused stack, and nothing else.

Transformers 5 holds the experts of a layer in one tensor (E, ...). Asking for its gradient costs E
experts of memory, and a masked gradient is no protection: weight decay still moves every row. So
the expert is a view of its rows, and its part of the output is computed a second time, with
gradients, for the tokens that were routed to it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seuf.inputs import InputError


class ExpertSlice:
    """One expert of a fused experts module as trainable tensors that are the model's own.

    Inside the context a backward pass gives `parameters()` the gradients that the rows of the
    fused tensors would get; the forward pass is unchanged to the bit. In a float32 model the
    parameters are views of the module's storage. In a lower precision they are float32 masters, so
    that small updates do not vanish; they are rounded into the model before the next forward pass
    and at the end of the context. Several slices may be open at once.

    Args:
        experts: The fused experts module of one layer.
        index: Which expert, 0 <= index < E.

    Raises:
        InputError: If the layer has no expert of that index, or is offloaded.
    """

    def __init__(self, experts: nn.Module, index: int) -> None:
        count = len(experts.get_parameter("down_proj"))
        if not 0 <= index < count:
            raise InputError(f"The layer has experts 0 to {count - 1}; there is no expert {index}.")
        if experts.get_parameter("down_proj").is_meta:
            raise InputError("The layer's experts are offloaded: see seuf.moe.forward.")
        self.experts, self.index = experts, index
        self.views = rows_of_expert(experts, index)
        self.tensors = {
            name: nn.Parameter(view.float() if view.dtype.itemsize < 4 else view)
            for name, view in self.views.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """Return the expert's trainable tensors."""
        return list(self.tensors.values())

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the masters, rounded, to the model."""
        # Always: a fused optimizer does not raise the version of what it changes.
        for name, view in self.views.items():
            if view.dtype.itemsize < 4:
                view.copy_(self.tensors[name])

    def __enter__(self) -> ExpertSlice:
        self._hooks = [
            self.experts.register_forward_pre_hook(lambda module, args: self.write_back()),
            self.experts.register_forward_hook(self._attach, with_kwargs=True),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self.write_back()

    def _attach(
        self, module: nn.Module, args: tuple, kwargs: dict[str, Any], out: Tensor
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return out
        hidden, chosen, weights = (*args, *kwargs.values())[:3]  # (N, d), (N, k), (N, k)
        tokens, weights = self._routed_here(chosen, weights.detach())
        tensors = {name: tensor.to(self.views[name].dtype) for name, tensor in self.tensors.items()}
        rows = hidden.detach() if tokens is None else hidden.detach()[tokens]
        rows = (expert_output(module, rows, tensors) * weights[:, None]).to(out.dtype)
        return _SideChannel.apply(out, rows, tokens)

    def _routed_here(self, chosen: Tensor, weights: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the tokens that chose this expert, None for all, and their weights.

        A GPU computes all rows, with weight 0 for the others: that takes a fraction of the layer's
        own time, and counting the tokens would make the CPU wait for the GPU.
        """
        here = chosen == self.index
        if chosen.is_cuda:
            return None, (weights * here).sum(1)
        tokens, slots = torch.where(here)
        return tokens, weights[tokens, slots]


class _SideChannel(torch.autograd.Function):
    """The identity on `out` whose backward also sends the gradient of `tokens` to `rows`."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, rows: Tensor, tokens: Tensor | None) -> Tensor:
        ctx.save_for_backward(tokens)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (tokens,) = ctx.saved_tensors
        return grad, grad if tokens is None else grad.index_select(0, tokens), None


def rows_of_expert(experts: nn.Module, index: int) -> dict[str, Tensor]:
    """Return an expert's rows of the fused tensors, by name: views without a gradient."""
    count = len(experts.get_parameter("down_proj"))
    # .detach() shares the version counter (.data does not): autograd then notices an
    # optimizer step between forward and backward.
    return {
        name: tensor.detach()[index]
        for name, tensor in experts.named_parameters(recurse=False)
        if tensor.dim() >= 2 and tensor.shape[0] == count
    }


def expert_output(module: Any, hidden: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Return one expert's output (n, d) with the module's own layout and activation."""
    gate_up = _linear(module, hidden, tensors, "gate_up_proj")
    return _linear(module, module._apply_gate(gate_up), tensors, "down_proj")


def _linear(module: nn.Module, x: Tensor, tensors: dict[str, Tensor], name: str) -> Tensor:
    weight = tensors[name].t() if getattr(module, "is_transposed", False) else tensors[name]
    return F.linear(x, weight, tensors.get(f"{name}_bias"))
