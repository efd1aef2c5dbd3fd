"""Algorithm 1, steps 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import texts_of
from seuf.moe.loading import LanguageModel
from seuf.unlearning.settings import RoutingSettings

if TYPE_CHECKING:
    from seuf.moe.routing import Routing


def capture_routing(
    base_model: LanguageModel,
    forget_set: list[dict[str, Any]],
    retain_set: list[dict[str, Any]],
    routing_capture: RoutingSettings,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Record the gate affinity and the token share of every expert, on forget and on retain."""
    forget = _routing(base_model, forget_set, routing_capture, seed, "forget")
    retain = _routing(base_model, retain_set, routing_capture, seed, "retain")
    return _table(forget), _table(retain)


def _routing(
    base: LanguageModel,
    texts: list[dict[str, Any]],
    settings: RoutingSettings,
    seed: int,
    what: str,
) -> Routing:
    from seuf.moe import batches, routing
    from seuf.moe.architectures import check_positions
    from seuf.unlearning.attribution import calibration_samples

    tokens = batches.tokenize(base.tokenizer, texts_of(texts), settings.max_length)
    check_positions(base.model, tokens, "set routing_capture.max_length to {} or less")
    samples = calibration_samples(tokens, settings.max_tokens, seed, what)
    ordered = batches.by_length(samples, settings.batch_size, base.padding)
    return routing.capture_routing(base.model, ordered)


def _table(routing: Routing) -> pd.DataFrame:
    layers, experts = routing.affinity.shape
    return pd.DataFrame(
        {
            "layer": [layer for layer in routing.layers for _ in range(experts)],
            "expert": list(range(experts)) * layers,
            "affinity": routing.affinity.flatten().tolist(),
            "affinity_even": routing.halves[0].flatten().tolist(),
            "affinity_odd": routing.halves[1].flatten().tolist(),
            "token_share": routing.token_share.flatten().tolist(),
        }
    )
