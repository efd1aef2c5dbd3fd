"""Algorithm 1, steps 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.benchmarks.records import texts_of
from seuf.moe.loading import LanguageModel
from seuf.pipelines.processes import may_use_processes
from seuf.unlearning.attribution import RoutingSettings

if TYPE_CHECKING:
    from seuf.moe.routing import Routing


def _processes(routing_capture: RoutingSettings, **_: Any) -> tuple[str, int]:
    return "routing_capture.devices", routing_capture.devices


@may_use_processes(_processes)
def capture_routing(
    base_model: LanguageModel,
    forget_set: list[dict[str, Any]],
    retain_set: list[dict[str, Any]],
    routing_capture: RoutingSettings,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Record the gate affinity and the token share of every expert, on forget and on retain."""
    from seuf.unlearning.attribution import capture

    return tuple(  # type: ignore[return-value]
        _table(capture(base_model, texts_of(records), routing_capture, seed, what))
        for what, records in (("forget", forget_set), ("retain", retain_set))
    )


def _table(routing: Routing) -> pd.DataFrame:
    layers, num_experts = routing.affinity.shape
    subsets = dict(zip(["subset_1", "subset_2"], routing.subsets, strict=False))
    on_request = {"gradient": routing.gradient, "reap": routing.reap}
    return pd.DataFrame(
        {
            "layer": [layer for layer in routing.layers for _ in range(num_experts)],
            "expert": list(range(num_experts)) * layers,
            "affinity": routing.affinity.flatten().tolist(),
            "affinity_even": routing.halves[0].flatten().tolist(),
            "affinity_odd": routing.halves[1].flatten().tolist(),
            "affinity_error": routing.errors.flatten().tolist(),
            **{f"affinity_{name}": part.flatten().tolist() for name, part in subsets.items()},
            "token_share": routing.token_share.flatten().tolist(),
            **{
                name: sizes.flatten().tolist()
                for name, sizes in on_request.items()
                if sizes is not None
            },
        }
    )
