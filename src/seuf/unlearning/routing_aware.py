"""What two other papers on unlearning a MoE do about its routing: GRIP and TRACE.

Neither has published code, and of both we know the abstract and what others report:

1. GRIP (Zhu et al. 2026, https://arxiv.org/abs/2601.16905) projects the router's updates to the
   null space of what it is given on the retain set, so that what is kept is routed as before. Ours
   has one null space for all rows of a router, with GRIP's tolerance 1e-2 taken as relative to the
   largest singular value. Its null space of each expert, and the margins that it keeps by
   Kaczmarz steps or corrects after training, are not defined in what we have.
2. TRACE (Xie et al. 2026, https://arxiv.org/abs/2606.10338) weighs the tokens of the retain loss so
   that the experts that matter for forgetting are chosen there as often as on the forget set. How
   many experts it takes, and its formula, are not known to us: see `critical_experts` and
   `matching_weights`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from seuf.moe.architectures import decoder, input_device, moe_layers
from seuf.moe.batches import Batch, by_length
from seuf.moe.forward import stop_at
from seuf.moe.loading import LanguageModel
from seuf.moe.routing import Routing, capture_routing, skip_packed_sequence_check
from seuf.moe.stability import first_tokens
from seuf.unlearning.scopes import Scope
from seuf.unlearning.settings import Experts

BATCH_SIZE = 16
TOKENS = 100_000  # of the retain set on which a router's inputs are measured
ROUNDS = 50  # of matching one expert after the other; a single one is matched in the first
MOST = 10.0  # a token weighs at most so many times, and at least so little, of the mean
log = logging.getLogger(__name__)


def hold_routers(
    scope: Scope, base: LanguageModel, retain: Sequence[Sequence[int]], tolerance: float
) -> None:
    """Let a scope change its routers only where the retain set's inputs hardly reach (GRIP).

    A router's bias is held: it acts on all inputs.

    Args:
        scope: Its context is not open yet.
        base: The model in its original state.
        retain: Token ids of the samples to keep; their first `TOKENS` tokens are passed.
        tolerance: See `null_space`.
    """
    layers = {layer.index: layer for layer in moe_layers(base.model)}
    inside = {id(p): index for index, la in layers.items() for p in la.router.parameters()}
    held = {name: inside[id(p)] for name, p in scope.whole.items() if id(p) in inside}
    batches = by_length(first_tokens(retain, TOKENS), BATCH_SIZE, base.padding)
    moments = router_inputs(base.model, sorted({*held.values()}), batches)
    for name, index in held.items():
        projection = null_space(moments[index], tolerance)
        free = round(projection.trace().item())
        log.info("layer %d: the router may change in %d directions", index, free)
        if not free:
            log.warning("The router of layer %d is held: the retain set fills its inputs.", index)
        if scope.whole[name].dim() != 2:
            projection = torch.zeros(())
        scope.hold(name, projection)


@torch.no_grad()
def router_inputs(
    model: nn.Module, layers: Sequence[int], batches: Iterable[Batch]
) -> dict[int, Tensor]:
    """Return for each layer the sum over tokens of x x^T, x what its router is given, (d, d)."""
    chosen = [layer for layer in moe_layers(model) if layer.index in layers]
    sums: dict[int, Tensor] = {}
    for batch in batches if chosen else ():
        mask, handles = batch.attention_mask.flatten().bool(), []
        for layer in chosen:

            def add(
                module: nn.Module, args: tuple, at: int = layer.index, mask: Tensor = mask
            ) -> None:
                rows = args[0].flatten(0, -2)[mask.to(args[0].device)].float()
                moment = (rows.T @ rows).double().cpu()
                sums[at] = sums.get(at, 0) + moment

            handles.append(layer.router.register_forward_pre_hook(add))
        try:
            with stop_at(chosen[-1].router), skip_packed_sequence_check():
                decoder(model)(**batch.inputs(input_device(model)), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return sums


def null_space(moments: Tensor, tolerance: float) -> Tensor:
    """Return the projection (d, d) to the directions that inputs hardly have.

    Args:
        moments: Sum of x x^T over inputs x, (d, d), whose eigenvalues are squares of singular ones.
        tolerance: Directions whose singular value is at most so much of the largest are free.
    """
    values, vectors = torch.linalg.eigh(moments)
    free = vectors[:, values.clamp(min=0).sqrt() <= tolerance * values.max().sqrt()]
    return (free @ free.T).float()


def critical_experts(forget: Routing, retain: Routing) -> Experts:
    """Return of each layer the expert that the forget set uses most beyond the retain set."""
    margin = forget.token_share - retain.token_share
    chosen = margin.argmax(1).tolist()
    return list(zip(forget.layers, chosen, strict=True))


def retain_token_weights(
    base: LanguageModel,
    forget: Sequence[Sequence[int]],
    retain: Sequence[Sequence[int]],
    experts: Experts,
    first_layer: int,
) -> list[Tensor]:
    """Return how much each token of each retain sample weighs, (T_i,); 1 on the average (TRACE).

    Args:
        base: The model in its original state.
        forget: Token ids of the samples to forget.
        retain: Token ids of the samples to keep.
        experts: Those that are to be matched; where there are none, `critical_experts`.
        first_layer: First decoder layer that will be trained.
    """
    of_forget, of_retain = (
        capture_routing(
            base.model, by_length(samples, BATCH_SIZE, base.padding), first_layer=first_layer
        )
        for samples in (forget, retain)
    )
    matched = [*experts] or critical_experts(of_forget, of_retain)
    rows = [of_forget.layers.index(layer) for layer, _ in matched]
    columns = [expert for _, expert in matched]
    chosen: dict[int, Tensor] = {}  # by position, (T_i, C)
    for batch in by_length(retain, BATCH_SIZE, base.padding):
        routing = capture_routing(base.model, [batch], top_k_sets=True, first_layer=first_layer)
        assert routing.top_k_sets is not None
        sets = routing.top_k_sets[rows, :, columns].T.cpu()  # (tokens, C)
        lengths = batch.attention_mask.sum(1).tolist()
        positions = batch.positions or range(len(lengths))
        chosen |= zip(positions, sets.split(lengths), strict=True)
    in_order = [chosen[position] for position in range(len(retain))]
    wanted = of_forget.token_share[rows, columns].cpu()
    weights = matching_weights(torch.cat(in_order), wanted)
    return list(weights.split([len(one) for one in in_order]))


def matching_weights(chosen: Tensor, wanted: Tensor) -> Tensor:
    """Return weights of tokens under which experts are chosen as often as wanted, (N,).

    One expert after the other, and again, tokens that chose it are weighed against the others until
    all shares are right (iterative proportional fitting). An expert that is chosen often enough
    without weights, or never, is left alone. A weight is kept within `MOST` times the mean and the
    same part of it.

    Args:
        chosen: Which experts each token chose, (N, C), bool.
        wanted: Share of tokens that is to choose each, (C,).

    Returns:
        In float32, 1 on the average.
    """
    weights = torch.ones(len(chosen), dtype=torch.float64)
    shares = zip(chosen.double().mean(0).tolist(), wanted.tolist(), strict=True)
    # of a share of 1 the other tokens would weigh nothing
    raised = [
        (e, min(share, 0.99)) for e, (at_first, share) in enumerate(shares) if 0 < at_first < share
    ]
    for _ in range(ROUNDS):
        for expert, share in raised:
            own = chosen[:, expert]
            now = weights[own].sum() / weights.sum()
            weights[own] *= share / now
            weights[~own] *= (1 - share) / (1 - now)
    weights = (weights / weights.mean()).clamp(1 / MOST, MOST)
    return (weights / weights.mean()).float()
