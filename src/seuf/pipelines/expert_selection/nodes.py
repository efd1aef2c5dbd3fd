"""Algorithm 1, step 3."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import pandas as pd

from seuf.logs import warn_once
from seuf.unlearning import selection
from seuf.unlearning.selection import RoutingTable, SelectionSettings

log = logging.getLogger(__name__)


def select_experts(
    routing_forget: pd.DataFrame,
    routing_retain: pd.DataFrame,
    expert_selection: SelectionSettings,
    base_seed: int,
    seed: int,
) -> dict[str, Any]:
    """Apply each rule to how both sets are routed, and log why a choice is in doubt."""
    forget, retain = routing_table(routing_forget), routing_table(routing_retain)
    draw = selection.seed_of_draw(base_seed, seed)
    chosen = selection.select_experts(forget, retain, expert_selection, draw)
    for rule, choice in chosen.items():
        for sentence in choice.warnings:
            # once: a study of spread selects experts again for every seed
            warn_once(log, f"Rule {rule}: {sentence}.")
    return {rule: asdict(choice) for rule, choice in chosen.items()}


def routing_table(table: pd.DataFrame) -> RoutingTable:
    """Return the routing of one set as rules read it."""
    import torch

    def matrix(column: str) -> torch.Tensor:
        wide = table.pivot(index="layer", columns="expert", values=column)
        return torch.tensor(wide.to_numpy())

    subsets = [name for name in ("affinity_subset_1", "affinity_subset_2") if name in table]
    return RoutingTable(
        layers=sorted(int(layer) for layer in table["layer"].unique()),
        affinity=matrix("affinity"),
        halves=torch.stack([matrix("affinity_even"), matrix("affinity_odd")]),
        token_share=matrix("token_share"),
        errors=matrix("affinity_error") if "affinity_error" in table else None,
        subsets=torch.stack([matrix(name) for name in subsets]) if subsets else None,
        **{name: matrix(name) for name in selection.COLUMNS if name in table},
    )
