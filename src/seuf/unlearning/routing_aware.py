"""How two other papers handle routing while a MoE model unlearns: GRIP and TRACE.

Neither has published code; we know the abstracts and what others report of them:

1. GRIP (Zhu et al. 2026, https://arxiv.org/abs/2601.16905) projects a router's updates to the null
   space of its inputs on the retain set, so that retained text is routed as before. Ours has one
   null space for all rows of a router, and takes GRIP's tolerance 1e-2 as relative to the largest
   singular value. GRIP has a null space for each expert, and margins that it keeps by Kaczmarz
   steps or corrects after training; our sources do not define these.
2. TRACE (Xie et al. 2026, https://arxiv.org/abs/2606.10338) weights the tokens of the retain loss
   so that the experts that matter for forgetting are chosen as often as on the forget set. Our
   sources give neither the number of experts nor the formula: see `critical_experts` and
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
TOKENS = 100_000  # tokens of the retain set on which a router's inputs are measured
ROUNDS = 50  # rounds of matching all experts in turn; one expert alone needs one round
LARGEST_WEIGHT = 10.0  # of a token, in means; the smallest is its inverse
log = logging.getLogger(__name__)


def constrain_routers(
    scope: Scope, base: LanguageModel, retain: Sequence[Sequence[int]], tolerance: float
) -> None:
    """Let a scope change its routers only in the null space of the retain set's inputs (GRIP).

    A router's bias stays as it is: it acts on all inputs.

    Args:
        scope: The scope; its context is not open yet.
        base: The model in its original state.
        retain: Token ids of the samples to keep; the first `TOKENS` tokens are used.
        tolerance: See `null_space`.
    """
    layer_of = {
        id(p): layer.index for layer in moe_layers(base.model) for p in layer.router.parameters()
    }
    routers = {name: layer_of[id(p)] for name, p in scope.whole.items() if id(p) in layer_of}
    batches = by_length(first_tokens(retain, TOKENS), BATCH_SIZE, base.padding)
    moments = router_inputs(base.model, sorted({*routers.values()}), batches)
    for name, index in routers.items():
        projection = null_space(moments[index], tolerance)
        free = round(projection.trace().item())
        log.info("layer %d: the router may change in %d directions", index, free)
        if not free:
            log.warning("The router of layer %d is frozen: the retain set fills its inputs.", index)
        if scope.whole[name].dim() != 2:
            projection = torch.zeros(())
        scope.constrain(name, projection)


@torch.no_grad()
def router_inputs(
    model: nn.Module, layers: Sequence[int], batches: Iterable[Batch]
) -> dict[int, Tensor]:
    """Return, for each layer, the sum of x x^T over its router's inputs x, (d, d) of float64."""
    observed = [layer for layer in moe_layers(model) if layer.index in layers]
    sums: dict[int, Tensor] = {}
    for batch in batches if observed else ():
        mask, handles = batch.attention_mask.flatten().bool(), []
        for layer in observed:

            def add(
                module: nn.Module, args: tuple, at: int = layer.index, mask: Tensor = mask
            ) -> None:
                rows = args[0].flatten(0, -2)[mask.to(args[0].device)].float()
                moment = (rows.T @ rows).double().cpu()
                sums[at] = sums.get(at, 0) + moment

            handles.append(layer.router.register_forward_pre_hook(add))
        try:
            with stop_at(observed[-1].router), skip_packed_sequence_check():
                decoder(model)(**batch.inputs(input_device(model)), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return sums


def null_space(moments: Tensor, tolerance: float) -> Tensor:
    """Return the projection (d, d) to the null space of inputs, up to a tolerance.

    Args:
        moments: Sum of x x^T over inputs x, (d, d); its eigenvalues are their singular values
            squared.
        tolerance: A direction counts as null if its singular value is at most this share of the
            largest.
    """
    values, vectors = torch.linalg.eigh(moments)
    free = vectors[:, values.clamp(min=0).sqrt() <= tolerance * values.max().sqrt()]
    return (free @ free.T).float()


def critical_experts(forget: Routing, retain: Routing) -> Experts:
    """Return each layer's expert of the largest token share on forget minus that on retain."""
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
    """Return the weights of the tokens of each retain sample, (T_i,), with mean 1 (TRACE).

    Args:
        base: The model in its original state.
        forget: Token ids of the samples to forget.
        retain: Token ids of the samples to keep.
        experts: Experts to match; without any, `critical_experts`.
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
    target = of_forget.token_share[rows, columns].cpu()
    weights = matching_weights(torch.cat(in_order), target)
    return list(weights.split([len(choices) for choices in in_order]))


def matching_weights(chosen: Tensor, target: Tensor) -> Tensor:
    """Return token weights (N,) under which experts are chosen as often as in a target.

    Iterative proportional fitting: for one expert after the other, in rounds, the weights of the
    tokens that chose it are scaled against the others', until all shares are right. An expert that
    unweighted tokens choose often enough, or never, is left alone. Weights are clamped to
    `LARGEST_WEIGHT` means and its inverse.

    Args:
        chosen: Which experts each token chose, (N, C), bool.
        target: Share of the tokens that should choose each expert, (C,).

    Returns:
        In float32, with mean 1.
    """
    weights = torch.ones(len(chosen), dtype=torch.float64)
    shares = zip(chosen.double().mean(0).tolist(), target.tolist(), strict=True)
    # at most .99: with a share of 1 the other tokens would weigh nothing
    raised = [
        (e, min(share, 0.99)) for e, (at_first, share) in enumerate(shares) if 0 < at_first < share
    ]
    for _ in range(ROUNDS):
        for expert, share in raised:
            own = chosen[:, expert]
            now = weights[own].sum() / weights.sum()
            weights[own] *= share / now
            weights[~own] *= (1 - share) / (1 - now)
    weights = (weights / weights.mean()).clamp(1 / LARGEST_WEIGHT, LARGEST_WEIGHT)
    return (weights / weights.mean()).float()
