"""Record which experts a model's routers choose, in one pass, without keeping per-token scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import masking_utils

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, chosen_gates, decoder, input_device, moe_layers
from seuf.moe.backoff import Backoff
from seuf.moe.batches import Batch, as_batch
from seuf.moe.forward import stop_at

Observer = Callable[[int, tuple[Tensor, ...]], None]
SHORTER = "lower max_length, of routing_capture or of unlearning"


@dataclass(frozen=True)
class Routing:
    """How a set of samples was routed, by MoE layer and expert.

    Attributes:
        layers: Decoder index of each MoE layer, length L.
        affinity: Gate affinity by Eq. 2, (L, E) of float64.
        halves: Affinity of the even and of the odd samples alone, (2, L, E): how much it varies.
        token_share: Share of the tokens that went to each expert, (L, E), as in the paper's Fig. 2:
            rows sum to k, since each token goes to k experts, and an even share is k / E.
        samples: Number of samples, Z.
        tokens: Number of tokens, padding excluded.
        top_k_sets: On request, the experts that each token chose, (L, tokens, E) of bool.
    """

    layers: list[int]
    affinity: Tensor
    halves: Tensor
    token_share: Tensor
    samples: int
    tokens: int
    top_k_sets: Tensor | None = None


def capture_routing(
    model: nn.Module,
    batches: Iterable[Batch | Mapping[str, Any]],
    *,
    top_k_sets: bool = False,
    first_layer: int = 0,
) -> Routing:
    """Return the gate affinity and token share of every expert of every layer.

    Eq. 2 to the letter: s is the router's softmax over all experts, g is s inside the top-k and 0
    outside, averaged over the tokens of a sample first and over samples second. The order
    matters: a plain token mean can choose another expert. The pass ends at the last router; what
    is summed lies beside it, (3, E) of float64 a layer, and moves once, at the end. A batch that
    does not fit in memory passes in parts.

    Args:
        model: A causal language model with MoE layers.
        batches: `Batch`es, or mappings with `input_ids` and `attention_mask`, each (B, T).
            Padding is not counted. A sample belongs to the half of its position's parity.
        top_k_sets: Keep every token's choice too.
        first_layer: Decoder layer from which on routers are observed.

    Raises:
        InputError: If there is no token, or the layers differ in their number of experts.
    """
    layers = [layer for layer in moe_layers(model) if layer.index >= first_layer]
    sums = [torch.zeros(3, layer.num_experts, dtype=torch.float64) for layer in layers]
    sets: list[list[Tensor]] = [[] for _ in layers]
    samples, tokens = torch.zeros(2, dtype=torch.float64), 0
    backoff, count = Backoff(SHORTER), partial(_count, model, layers, top_k_sets)
    for batch in _numbered(map(as_batch, batches)):
        for part, counts in backoff.rows(batch, count):
            for position, (added, chosen) in enumerate(counts):
                sums[position] = sums[position].to(added.device) + added
                sets[position] += [] if chosen is None else [chosen]
            samples += torch.bincount(_halves(part), minlength=2)
            tokens += int(part.attention_mask.sum())
    if not tokens:
        raise InputError("There is no token to capture the routing of.")
    if len({layer.num_experts for layer in layers}) > 1:
        raise InputError("The MoE layers differ in their number of experts; affinities would not.")
    total = torch.stack([of_layer.cpu() for of_layer in sums], dim=1)
    return Routing(
        layers=[layer.index for layer in layers],
        affinity=total[:2].sum(0) / samples.sum(),
        halves=total[:2] / samples[:, None, None],
        token_share=total[2] / tokens,
        samples=int(samples.sum()),
        tokens=tokens,
        top_k_sets=torch.stack([torch.cat(chosen) for chosen in sets]) if top_k_sets else None,
    )


@torch.no_grad()
def _count(
    model: nn.Module, layers: list[MoELayer], top_k_sets: bool, batch: Batch
) -> list[tuple[Tensor, Tensor | None]]:
    """Pass a batch, and return for each layer what it adds: sums and, if asked for, choices.

    Returns:
        g summed by half and the slots given out, (3, E), and the chosen experts, (tokens, E).
    """
    mask, halves, device = batch.attention_mask.cpu(), _halves(batch), input_device(model)
    counted = mask.double()
    means = counted / counted.sum(1, keepdim=True).clamp(min=1)
    by_half = [means * (halves == parity)[:, None] for parity in (0, 1)]
    weights = torch.stack([*by_half, counted]).flatten(1).to(device)  # of each token, (3, N)
    counts: dict[int, tuple[Tensor, Tensor | None]] = {}

    def observe(position: int, output: tuple[Tensor, ...]) -> None:
        gates, choice = chosen_gates(layers[position], output)
        of_tokens = weights.to(gates.device)
        sums = torch.cat([of_tokens[:2] @ gates.double(), of_tokens[2:] @ choice.double()])
        sets = choice.cpu().bool()[mask.flatten().bool()] if top_k_sets else None
        counts[position] = sums, sets

    with (
        observed_routers(layers, observe),
        stop_at(layers[-1].router),
        skip_packed_sequence_check(),
    ):
        decoder(model)(**batch.inputs(device), use_cache=False)
    return [counts[position] for position in range(len(layers))]


def _numbered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches with the position of each row among all."""
    seen = 0
    for batch in batches:
        count = len(batch.input_ids)
        yield batch._replace(positions=batch.positions or list(range(seen, seen + count)))
        seen += count


def _halves(batch: Batch) -> Tensor:
    return torch.tensor(batch.positions) % 2


@contextmanager
def observed_routers(layers: list[MoELayer], observe: Observer) -> Iterator[None]:
    """Call `observe(position, output)` whenever a router of `layers` has run.

    `output` begins with the raw logits (N, E), with gradient, the weights and the chosen experts,
    both (N, k).
    """

    def hook(position: int) -> Callable[..., None]:
        return lambda module, args, output: observe(position, output)

    handles = [
        layer.router.register_forward_hook(hook(position)) for position, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def skip_packed_sequence_check() -> Iterator[None]:
    """Skip transformers' check if a row of a batch without a mask holds several sequences.

    No row does. The check reads the positions in every pass, which makes a GPU wait; and while a
    CUDA graph is recorded, which forbids it, transformers takes a slower attention.
    """
    replacements: dict[str, Any] = {
        "find_packed_sequence_indices": lambda position_ids: None,
        "is_tracing": lambda *tensors: False,
    }
    before = {name: getattr(masking_utils, name) for name in replacements}
    for name, function in replacements.items():
        setattr(masking_utils, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(masking_utils, name, function)
