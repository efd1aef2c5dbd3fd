"""Algorithm 1, step 3."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from seuf.unlearning.settings import SelectionSettings

if TYPE_CHECKING:
    from seuf.unlearning.selection import Affinities


def select_experts(
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    expert_selection: SelectionSettings,
    seed: int,
) -> dict[str, Any]:
    """Apply each rule to how both sets are routed."""
    from seuf.unlearning import selection

    chosen = selection.select_experts(
        _affinities(routing_forget), _affinities(routing_retain), expert_selection, seed
    )
    return {rule: asdict(choice) for rule, choice in chosen.items()}


def _affinities(table: pd.DataFrame) -> Affinities:
    import torch

    from seuf.unlearning.selection import Affinities

    def matrix(column: str) -> torch.Tensor:
        wide = table.pivot(index="layer", columns="expert", values=column)
        return torch.tensor(wide.to_numpy())

    return Affinities(
        layers=sorted(int(layer) for layer in table["layer"].unique()),
        all=matrix("affinity"),
        halves=torch.stack([matrix("affinity_even"), matrix("affinity_odd")]),
        token_share=matrix("token_share"),
    )
