"""Record which experts a model's routers choose, in one pass, without keeping per-token scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
PARITIES = (0, 1)  # of a sample's position: the two halves
SHORTER = "lower max_length, of routing_capture or of unlearning"


@dataclass(frozen=True)
class Routing:
    """How a set of samples was routed, by MoE layer and expert.

    Attributes:
        layers: Decoder index of each MoE layer, length L.
        affinity: Gate affinity by Eq. 2, (L, E) of float64.
        halves: Affinity of the even and of the odd samples alone, (2, L, E).
        errors: Standard error of the affinity over samples, (L, E); NaN for a single sample.
        subsets: Affinity of each requested subset of the samples, (S, L, E).
        token_share: Share of the tokens routed to each expert, (L, E), as in the paper's Fig. 2:
            rows sum to k, since each token has k experts; a uniform share is k / E.
        samples: Number of samples, Z.
        tokens: Number of tokens, padding excluded.
        top_k_sets: On request, the experts that each token chose, (L, tokens, E) of bool.
        gradient: On request, the norm of the loss's gradient on each expert, (L, E) of float64.
        reap: On request, the mean norm of its weighted outputs (REAP), (L, E) of float64.
    """

    layers: list[int]
    affinity: Tensor
    halves: Tensor
    errors: Tensor
    subsets: Tensor
    token_share: Tensor
    samples: int
    tokens: int
    top_k_sets: Tensor | None = None
    gradient: Tensor | None = None
    reap: Tensor | None = None


def capture_routing(
    model: nn.Module,
    batches: Iterable[Batch | Mapping[str, Any]],
    *,
    subsets: Sequence[Sequence[int]] = (),
    top_k_sets: bool = False,
    first_layer: int = 0,
) -> Routing:
    """Return the gate affinity and token share of every expert of every layer.

    Eq. 2 to the letter: s is the router's softmax over all experts, g is s inside the top-k and 0
    outside, averaged over the tokens of a sample first and over samples second. The order
    matters: a plain token mean can choose another expert. The pass ends at the last router; sums,
    (4 + S, E) of float64 a layer, stay on its device until the end.

    Args:
        model: A causal language model with MoE layers.
        batches: `Batch`es, or mappings with `input_ids` and `attention_mask`, each (B, T).
            Padding is not counted. Even positions are one half of the samples, odd ones the other.
        subsets: Positions of the samples of each of S subsets whose own affinity is returned.
        top_k_sets: Return every token's choice too.
        first_layer: First decoder layer whose router is observed.

    Raises:
        InputError: If there is no token, or the layers differ in their number of experts.
    """
    layers = [layer for layer in moe_layers(model) if layer.index >= first_layer]
    rows = len(PARITIES) + len(subsets) + 2  # g by part, its squares, tokens
    sums = [torch.zeros(rows, layer.num_experts, dtype=torch.float64) for layer in layers]
    sets: list[list[Tensor]] = [[] for _ in layers]
    samples, tokens = torch.zeros(rows - 2, dtype=torch.float64), 0
    parts_of = partial(_parts_of, subsets=[frozenset(subset) for subset in subsets])
    backoff, count = Backoff(SHORTER), partial(_count, model, layers, top_k_sets, parts_of)
    for part, counts in backoff.map_batches(_numbered(map(as_batch, batches)), count):
        for position, (added, chosen) in enumerate(counts):
            sums[position] = sums[position].to(added.device) + added
            sets[position] += [] if chosen is None else [chosen]
        samples += parts_of(part).sum(1)
        tokens += int(part.attention_mask.sum())
    if not tokens:
        raise InputError("There is no token to capture the routing of.")
    if len({layer.num_experts for layer in layers}) > 1:
        raise InputError(
            "The MoE layers differ in their number of experts: affinities cannot be compared."
        )
    total = torch.stack([of_layer.cpu() for of_layer in sums], dim=1)
    *by_part, squares, chosen_by = total
    halves, number = torch.stack(by_part[:2]), samples[:2].sum()
    affinity, by_part_means = halves.sum(0) / number, total[:-2] / samples[:, None, None]
    variance = (squares - number * affinity**2).clamp(min=0) / (number - 1)
    return Routing(
        layers=[layer.index for layer in layers],
        affinity=affinity,
        halves=by_part_means[:2],
        errors=(variance / number).sqrt() if number > 1 else torch.full_like(affinity, torch.nan),
        subsets=by_part_means[2:],
        token_share=chosen_by / tokens,
        samples=int(number),
        tokens=tokens,
        top_k_sets=torch.stack([torch.cat(chosen) for chosen in sets]) if top_k_sets else None,
    )


@torch.no_grad()
def _count(
    model: nn.Module,
    layers: list[MoELayer],
    top_k_sets: bool,
    parts_of: Callable[[Batch], Tensor],
    batch: Batch,
) -> list[tuple[Tensor, Tensor | None]]:
    """Pass a batch, and return what it adds in each layer: sums and, on request, choices.

    Returns:
        The sums over samples of the mean g, for each part, and of its square, and the number of
        tokens that chose each expert, (4 + S, E); and the chosen experts, (tokens, E).
    """
    mask, device = batch.attention_mask.cpu(), input_device(model)
    counted = mask.double().to(device)
    weights = counted / counted.sum(1, keepdim=True).clamp(min=1)  # of each token, (B, T)
    parts = parts_of(batch).to(device)
    counts: dict[int, tuple[Tensor, Tensor | None]] = {}

    def observe(position: int, output: tuple[Tensor, ...]) -> None:
        gates, choice = chosen_gates(layers[position], output)
        of_tokens, tokens = (t.to(gates.device) for t in (weights, counted.view(1, -1)))
        of_samples = (of_tokens[:, None] @ gates.double().view(*mask.shape, -1))[:, 0]  # (B, E)
        by_part = parts.to(gates.device) @ of_samples
        sums = torch.cat([by_part, of_samples.square().sum(0)[None], tokens @ choice.double()])
        sets = choice.cpu().bool()[mask.flatten().bool()] if top_k_sets else None
        counts[position] = sums, sets

    with (
        observed_routers(layers, observe),
        stop_at(layers[-1].router),
        skip_packed_sequence_check(),
    ):
        decoder(model)(**batch.inputs(device), use_cache=False)
    return [counts[position] for position in range(len(layers))]


class TopKSets:
    """The experts that the tokens of fixed batches choose, for a model that changes between calls.

    The batches are copied to a device once, and no call waits for the device.

    Args:
        batches: At least one token; padding is not counted.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = list(_numbered(batches))
        self.backoff = Backoff(SHORTER)
        self._given: dict[tuple[torch.device, int, int], tuple[dict[str, Any], Tensor]] = {}

    @torch.no_grad()
    def __call__(self, model: nn.Module, first_layer: int = 0) -> Tensor:
        """Return the choices, (L, tokens, E) of bool, on the device of the model's input.

        Args:
            model: A causal language model with MoE layers.
            first_layer: First decoder layer whose router is observed.
        """
        layers = [layer for layer in moe_layers(model) if layer.index >= first_layer]
        device, sets = input_device(model), list[Tensor]()

        def choices(batch: Batch) -> Tensor:
            inputs, counted = self._given_for(batch, device)
            chosen: dict[int, Tensor] = {}

            def observe(position: int, output: tuple[Tensor, ...]) -> None:
                logits, indices = output[0], output[2]
                choice = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, indices, True)
                chosen[position] = choice[counted.to(choice.device)].to(device)

            with observed_routers(layers, observe), stop_at(layers[-1].router):
                decoder(model)(**inputs, use_cache=False)
            return torch.stack([chosen[position] for position in range(len(layers))])

        with skip_packed_sequence_check():
            for batch in self.batches:
                sets += [chosen for _, chosen in self.backoff.map_batch(batch, choices)]
        return torch.cat(sets, dim=1)

    def _given_for(self, batch: Batch, device: torch.device) -> tuple[dict[str, Any], Tensor]:
        positions = batch.positions or []
        key = device, positions[0], len(positions)
        if key not in self._given:
            counted = batch.attention_mask.flatten().nonzero()[:, 0]
            self._given[key] = batch.inputs(device), counted.to(device)
        return self._given[key]


def _numbered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches with the position of each row among all."""
    seen = 0
    for batch in batches:
        count = len(batch.input_ids)
        yield batch._replace(positions=batch.positions or list(range(seen, seen + count)))
        seen += count


def _parts_of(batch: Batch, subsets: Sequence[frozenset[int]]) -> Tensor:
    """Return 1 where a row of a batch is in a half or a subset, (2 + S, B) of float64."""
    positions = batch.positions or []
    halves = [[position % 2 == parity for position in positions] for parity in PARITIES]
    chosen = [[position in subset for position in positions] for subset in subsets]
    return torch.tensor(halves + chosen, dtype=torch.float64)


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
    """Skip transformers' check whether a row of an unmasked batch holds several packed sequences.

    Our rows never do. The check reads positions in every pass, so the CPU waits for the GPU; while
    a CUDA graph is recorded it is not possible, and transformers falls back to slower attention.
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
