"""Measure what experts do with what they are given: beside how often and how surely they are asked.

Both measures cost a pass of their own over the samples, the second a backward pass too, and are
made on request only, `routing_capture.columns`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, decoder, input_device, moe_layers
from seuf.moe.batches import Batch, pad
from seuf.moe.experts import expert_output, rows_of_expert
from seuf.moe.forward import is_offloaded, stop_at
from seuf.moe.loss import batch_nll
from seuf.moe.routing import skip_packed_sequence_check


@torch.no_grad()
def weighted_norms(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """Return the mean norm of each expert's outputs, times the weight they are given.

    REAP's score, Eq. 9 of Lasby et al. 2025, https://arxiv.org/abs/2510.13999; `reap` in
    src/reap/observer.py of CerebrasResearch/reap at 46d78eb. The mean is over the tokens that were
    routed to the expert, 0 where none was; the weight is what the model itself multiplies with.

    Args:
        model: A causal language model with MoE layers.
        batches: Padding is not counted.

    Returns:
        By MoE layer and expert, (L, E) of float64.

    Raises:
        InputError: If a part of the model is offloaded.
    """
    _check_is_here(model, "reap")
    layers = moe_layers(model)
    sums, counts = (torch.zeros(len(layers), layers[0].num_experts).double() for _ in range(2))
    for batch in tqdm(list(batches), desc="norms of outputs", unit="batch", disable=None):
        mask = batch.attention_mask.flatten().bool()

        def add(
            position: int, module: nn.Module, given: Sequence[Tensor], mask: Tensor = mask
        ) -> None:
            hidden, chosen, weights = given  # (N, d), (N, k), (N, k)
            for expert in range(layers[position].num_experts):
                tokens, slots = torch.where((chosen == expert) & mask.to(chosen.device)[:, None])
                outputs = expert_output(module, hidden[tokens], rows_of_expert(module, expert))
                norms = outputs.float().norm(dim=-1) * weights[tokens, slots].float()
                sums[position, expert] += norms.double().sum().cpu()
                counts[position, expert] += len(tokens)

        with ExitStack() as stack:
            for position, layer in enumerate(layers):
                hook = layer.experts.register_forward_hook(
                    lambda module, args, kwargs, output, position=position: add(
                        position, module, (*args, *kwargs.values())[:3]
                    ),
                    with_kwargs=True,
                )
                stack.callback(hook.remove)
            stack.enter_context(stop_at(layers[-1].experts))
            stack.enter_context(skip_packed_sequence_check())
            decoder(model)(**batch.inputs(input_device(model)), use_cache=False)
    return sums / counts.clamp(min=1)


def gradient_sizes(model: nn.Module, samples: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Return how large the loss's gradient on each expert's weights is.

    The root mean square, over samples, of the norm of the gradient of a sample's mean token NLL:
    the square is the trace of the expert's part of the empirical Fisher information, which
    `calc_importance` in ssd.py of if-loops/selective-synaptic-dampening at 77161cc estimates by
    batches instead of samples. Samples pass one by one, so that no batch size has a part in it.

    Args:
        model: A causal language model with MoE layers; its gradients are left empty.
        samples: Token ids; those of one token predict nothing and are left out.
        padding: Any token id.

    Returns:
        By MoE layer and expert, (L, E) of float64.

    Raises:
        InputError: If a part of the model is offloaded, or no sample has two tokens.
    """
    _check_is_here(model, "gradient")
    layers = moe_layers(model)
    samples = [sample for sample in samples if len(sample) > 1]
    if not samples:
        raise InputError("There is no sample of two tokens to take a gradient of.")
    squares = [torch.zeros(layer.num_experts, dtype=torch.float64) for layer in layers]

    def take(position: int, parameter: Any) -> None:
        """Add a gradient's squares as soon as it is there, and free it: a layer's at a time."""
        added = parameter.grad.float().square().flatten(1).sum(1)
        squares[position] = squares[position].to(added.device) + added.double()
        parameter.grad = None

    with ExitStack() as stack:
        for parameter in model.parameters():
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        for position, layer in enumerate(layers):
            for parameter in _weights(layer):
                parameter.requires_grad_(True)
                hook = parameter.register_post_accumulate_grad_hook(
                    lambda parameter, position=position: take(position, parameter)
                )
                stack.callback(hook.remove)
        for sample in tqdm(samples, desc="gradients", unit="sample", disable=None):
            with torch.enable_grad(), skip_packed_sequence_check():
                values, counted = batch_nll(model, pad([sample], padding))
                (values.sum() / counted.sum()).backward()
    return torch.stack([square.cpu() / len(samples) for square in squares]).sqrt()


def _weights(layer: MoELayer) -> list[nn.Parameter]:
    parameters = layer.experts.parameters(recurse=False)
    return [p for p in parameters if p.dim() >= 2 and len(p) == layer.num_experts]


def _check_is_here(model: nn.Module, column: str) -> None:
    if is_offloaded(model):
        raise InputError(
            f"routing_capture.columns: {column!r} needs all experts where they run, and a part of "
            "this model is offloaded: leave it out, or use a device_map without cpu and disk."
        )
