"""Record which experts a model's routers choose, in one pass, without keeping per-token scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seuf.moe.architectures import MoELayer, decoder, gate_probabilities, input_device, moe_layers
from seuf.moe.batches import Batch

Observer = Callable[[int, Tensor, Tensor], None]
Summary = TypeVar("Summary")


@dataclass(frozen=True)
class Routing:
    """How a set of samples was routed, by MoE layer and expert.

    Attributes:
        layers: Decoder index of each MoE layer, length L.
        affinity: Gate affinity by Eq. 2, (L, E) of float64.
        halves: Affinity of the even and of the odd samples alone, (2, L, E): how much it varies.
        token_share: Share of all top-k slots that went to each expert, (L, E); rows sum to 1.
        samples: Number of samples, Z.
        tokens: Number of tokens, padding excluded.
    """

    layers: list[int]
    affinity: Tensor
    halves: Tensor
    token_share: Tensor
    samples: int
    tokens: int


def capture_routing(model: nn.Module, batches: Iterable[tuple[Batch, list[int]]]) -> Routing:
    """Return the gate affinity and token share of every expert of every layer.

    Eq. 2 to the letter: s is the router's softmax over all experts, g is s inside the top-k and 0
    outside, averaged over the tokens of a sample first and over samples second. The order
    matters: a plain token mean can choose another expert.

    Args:
        model: A causal language model of a known MoE architecture.
        batches: Right-padded batches and, for each row, the number of its sample; the number's
            parity decides the half it belongs to. Padding is not counted.
    """
    layers = moe_layers(model)
    shape = (len(layers), layers[0].num_experts)
    sums = torch.zeros(2, *shape, dtype=torch.float64)
    slots = torch.zeros(shape, dtype=torch.float64)
    counts, tokens = torch.zeros(2, dtype=torch.float64), 0
    for batch, numbers in batches:
        half = torch.tensor(numbers) % 2
        summaries = _observed(model, layers, batch, _affinity_and_slots(batch.attention_mask))
        for position, (by_sample, by_expert) in enumerate(summaries):
            sums[:, position].index_add_(0, half, by_sample)
            slots[position] += by_expert
        counts += torch.bincount(half, minlength=2)
        tokens += int(batch.attention_mask.sum())
    return Routing(
        layers=[layer.index for layer in layers],
        affinity=sums.sum(0) / counts.sum(),
        halves=sums / counts[:, None, None],
        token_share=slots / slots.sum(1, keepdim=True),
        samples=int(counts.sum()),
        tokens=tokens,
    )


def top_k_sets(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """Return which experts each token chooses in each layer, (L, tokens, E) of bool."""
    layers = moe_layers(model)
    rows: list[list[Tensor]] = [[] for _ in layers]
    for batch in batches:
        kept = batch.attention_mask.flatten().bool()
        choices = _observed(model, layers, batch, lambda gates, choice: choice.bool().cpu())
        for row, choice in zip(rows, choices, strict=True):
            row.append(choice[kept])
    return torch.stack([torch.cat(row) for row in rows])


def routing_overlap(chosen: Tensor, original: Tensor) -> float:
    """Return the mean share of each token's chosen experts that the original model chose too.

    Zhuang et al. 2025, Fig. 3. Both arguments are top-k sets as of `top_k_sets`.
    """
    return ((chosen & original).sum(-1) / original.sum(-1)).mean().item()


@contextmanager
def observed_routers(layers: list[MoELayer], observe: Observer) -> Iterator[None]:
    """Call `observe(position, logits, chosen)` whenever a router of `layers` has run.

    `logits` are raw, (N, E), with gradient; `chosen` are the experts it chose, (N, k).
    """

    def hook(position: int) -> Callable[..., None]:
        def observe_output(module: nn.Module, args: Any, output: tuple[Tensor, ...]) -> None:
            observe(position, output[0], output[-1])

        return observe_output

    handles = [
        layer.router.register_forward_hook(hook(position)) for position, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _affinity_and_slots(mask: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return what makes of g and choice the affinity of each sample (B, E) and the slots (E,)."""

    def summarise(gates: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        counted = mask.to(gates.device).double()
        weights = counted / counted.sum(1, keepdim=True)
        gates, choice = (tensor.double().view(*mask.shape, -1) for tensor in (gates, choice))
        by_sample = torch.einsum("bt,bte->be", weights, gates)
        return by_sample.cpu(), torch.einsum("bt,bte->e", counted, choice).cpu()

    return summarise


@torch.no_grad()
def _observed(
    model: nn.Module, layers: list[MoELayer], batch: Batch, summarise: Callable[..., Summary]
) -> list[Summary]:
    """Return for each layer what `summarise` makes of g and of the 0/1 choice, both (N, E)."""
    seen: dict[int, Summary] = {}

    def observe(position: int, logits: Tensor, chosen: Tensor) -> None:
        choice = torch.zeros_like(logits, dtype=torch.float32).scatter_(1, chosen, 1.0)
        gates = gate_probabilities(layers[position], logits) * choice
        seen[position] = summarise(gates, choice)

    with observed_routers(layers, observe):
        decoder(model)(**batch.to(input_device(model))._asdict(), use_cache=False)
    return [seen[position] for position in range(len(layers))]
