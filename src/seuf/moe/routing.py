"""Record which experts a model's routers choose, in one pass, without keeping per-token scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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
        token_share: Share of all top-k slots that went to each expert, (L, E); rows sum to 1.
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
    tallies, backoff = [_Tally(layer, top_k_sets) for layer in layers], Backoff(SHORTER)
    samples, tokens = torch.zeros(2, dtype=torch.float64), 0
    for batch in _numbered(map(as_batch, batches)):
        for part, found in backoff.rows(batch, partial(_pass, model, tallies)):
            for tally, counted in zip(tallies, found, strict=True):
                tally.add(counted)
            samples += torch.bincount(_halves(part), minlength=2)
            tokens += int(part.attention_mask.sum())
    if not tokens:
        raise InputError("There is no token to capture the routing of.")
    return _routing(layers, tallies, samples, tokens)


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


class _Counted(NamedTuple):
    """What a pass adds to a tally: g by half and slots, (3, E), and choices, (tokens, E)."""

    sums: Tensor
    sets: Tensor | None


class _Tally:
    """What one layer adds up: g by half, (2, E), and slots, (1, E), in float64 on its device."""

    def __init__(self, layer: MoELayer, keep_sets: bool) -> None:
        self.layer, self.sums = layer, torch.zeros(3, layer.num_experts, dtype=torch.float64)
        self.sets: list[Tensor] | None = [] if keep_sets else None

    def counted(self, output: tuple[Tensor, ...], weights: Tensor, kept: Tensor) -> _Counted:
        """Return what a pass is going to add; it may yet fail in a higher layer."""
        gates, choice = chosen_gates(self.layer, output)
        weights = weights.to(gates.device)
        sums = torch.cat([weights[:2] @ gates.double(), weights[2:] @ choice.double()])
        return _Counted(sums, None if self.sets is None else choice.cpu().bool()[kept])

    def add(self, counted: _Counted) -> None:
        self.sums = self.sums.to(counted.sums.device)
        self.sums += counted.sums
        if self.sets is not None and counted.sets is not None:
            self.sets.append(counted.sets)


def _numbered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches with the position of each row among all."""
    seen = 0
    for batch in batches:
        count = len(batch.input_ids)
        yield batch._replace(positions=batch.positions or list(range(seen, seen + count)))
        seen += count


def _halves(batch: Batch) -> Tensor:
    return torch.tensor(batch.positions) % 2


@torch.no_grad()
def _pass(model: nn.Module, tallies: list[_Tally], batch: Batch) -> list[_Counted]:
    """Return what a batch adds to each tally."""
    device, layers = input_device(model), [tally.layer for tally in tallies]
    weights = _token_weights(batch.attention_mask.cpu(), _halves(batch)).to(device)
    kept = batch.attention_mask.cpu().flatten().bool()
    found: dict[int, _Counted] = {}

    def observe(position: int, output: tuple[Tensor, ...]) -> None:
        found[position] = tallies[position].counted(output, weights, kept)

    with (
        observed_routers(layers, observe),
        stop_at(layers[-1].router),
        skip_packed_sequence_check(),
    ):
        decoder(model)(**batch.inputs(device), use_cache=False)
    return [found[position] for position in range(len(layers))]


def _token_weights(mask: Tensor, half: Tensor) -> Tensor:
    """Return what each token counts for, (3, N): in even samples, in odd ones, as a slot."""
    counted = mask.double()
    means = counted / counted.sum(1, keepdim=True).clamp(min=1)
    rows = [means * (half == parity)[:, None] for parity in (0, 1)]
    return torch.stack([*rows, counted]).flatten(1)


def _routing(
    layers: list[MoELayer], tallies: list[_Tally], samples: Tensor, tokens: int
) -> Routing:
    if len({layer.num_experts for layer in layers}) > 1:
        raise InputError("The MoE layers differ in their number of experts; affinities would not.")
    sums = torch.stack([tally.sums.cpu() for tally in tallies], dim=1)
    sets = [torch.cat(tally.sets) for tally in tallies if tally.sets is not None]
    return Routing(
        layers=[layer.index for layer in layers],
        affinity=sums[:2].sum(0) / samples.sum(),
        halves=sums[:2] / samples[:, None, None],
        token_share=sums[2] / sums[2].sum(1, keepdim=True),
        samples=int(samples.sum()),
        tokens=tokens,
        top_k_sets=torch.stack(sets) if sets else None,
    )
