"""Algorithm 1, steps 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import texts_of
from seuf.moe.loading import LanguageModel
from seuf.unlearning.attribution import RoutingSettings

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
    given = {name: one for name, one in locals().items() if name != "base_model"}
    from seuf.moe.sharding import processes
    from seuf.unlearning.attribution import capture

    if routing_capture.devices > 1 and processes() == 1:
        from seuf.pipelines.processes import in_processes

        number, asked_by = routing_capture.devices, "routing_capture.devices"
        return in_processes(capture_routing, base_model, given, number, asked_by)
    return tuple(  # type: ignore[return-value]
        _table(capture(base_model, texts_of(records), routing_capture, seed, what))
        for what, records in (("forget", forget_set), ("retain", retain_set))
    )


def _table(routing: Routing) -> pd.DataFrame:
    layers, experts = routing.affinity.shape
    subsets = dict(zip(["subset_1", "subset_2"], routing.subsets, strict=False))
    on_request = {"gradient": routing.gradient, "reap": routing.reap}
    return pd.DataFrame(
        {
            "layer": [layer for layer in routing.layers for _ in range(experts)],
            "expert": list(range(experts)) * layers,
            "affinity": routing.affinity.flatten().tolist(),
            "affinity_even": routing.halves[0].flatten().tolist(),
            "affinity_odd": routing.halves[1].flatten().tolist(),
            "affinity_error": routing.errors.flatten().tolist(),
            **{f"affinity_{name}": of.flatten().tolist() for name, of in subsets.items()},
            "token_share": routing.token_share.flatten().tolist(),
            **{name: of.flatten().tolist() for name, of in on_request.items() if of is not None},
        }
    )
