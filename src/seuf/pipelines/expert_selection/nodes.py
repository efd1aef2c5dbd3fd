"""Algorithm 1, step 3."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from seuf.unlearning import selection
from seuf.unlearning.selection import RoutingTable, SelectionSettings


def select_experts(
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    expert_selection: SelectionSettings,
    base_seed: int,
    seed: int,
) -> dict[str, Any]:
    """Apply each rule to how both sets are routed."""
    forget, retain = _routing_table(routing_forget), _routing_table(routing_retain)
    drawing = selection.seed_of_draw(base_seed, seed)
    chosen = selection.select_experts(forget, retain, expert_selection, drawing)
    return {rule: asdict(choice) for rule, choice in chosen.items()}


def _routing_table(table: pd.DataFrame) -> RoutingTable:
    import torch

    def matrix(column: str) -> torch.Tensor:
        wide = table.pivot(index="layer", columns="expert", values=column)
        return torch.tensor(wide.to_numpy())

    return RoutingTable(
        layers=sorted(int(layer) for layer in table["layer"].unique()),
        affinity=matrix("affinity"),
        halves=torch.stack([matrix("affinity_even"), matrix("affinity_odd")]),
        token_share=matrix("token_share"),
        **{name: matrix(name) for name in selection.COLUMNS if name in table},
    )
