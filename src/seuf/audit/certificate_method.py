"""A row of the methods table in plain words; a name that is not known here stands as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seuf.audit.certificate_numbers import said

SCOPES = {
    "nothing": "Nothing: this is the base model as it was.",
    "everything": "All weights of the model.",
    "lora": "All weight matrices, by small additions (LoRA) that were then merged into them.",
    "experts": "Only the experts named below",
}
ROUTERS = {
    "layer": " and the router of their layer, which decides what goes to them.",
    "row": " and their own rows of the router, which decide what goes to them.",
    "none": "; the routers were held.",
}
PARTS = {
    "experts": "Only the experts",
    "routers": "Only the routers",
    "experts_and_routers": "Only the experts and the routers",
}
SELECTIONS = {
    "affinity": "those that the texts to be forgotten use most",
    "contrast": "those that the texts to be forgotten use more than all other texts do",
    "random": "by lot",
    "esft": "the fewest that together handle a set share of the texts to be forgotten",
}
OBJECTIVES = {
    "ga": "Training made the texts to be forgotten less likely (gradient ascent).",
    "gdiff": "Training made the texts to be forgotten less likely and, beside them, the texts to "
    "keep likelier (gradient difference).",
    "npo": "Training made the texts to be forgotten less likely than the base model has them, and "
    "the texts to keep likelier (negative preference optimisation).",
    "rmu": "Training led what the model computes inside for the texts to be forgotten in a random "
    "direction, and held it where it was for the texts to keep (RMU).",
}


def scope(row: Mapping[str, Any]) -> str:
    """Return what could change in training."""
    name = row.get("scope", "")
    if name == "everything" and (row.get("only") or row.get("layers")):
        part = PARTS.get(row.get("only", ""), "Only the weights")
        layers = ", ".join(map(str, row.get("layers") or []))
        return part + (f" of the layers {layers}." if layers else " of all layers.")
    router = ROUTERS.get(row.get("router", "layer"), ".") if name == "experts" else ""
    return SCOPES.get(name, said(name)) + router


def selection(rule: str) -> str:
    """Return by which rule the experts were chosen."""
    name, _, rank = rule.partition("_")
    if name not in SELECTIONS or not (rank.isdigit() or not rank):
        return f"by hand, as {rule} in the settings"
    ranked = f"; number {rank} of that order" if rank and name != "random" else ""
    return f"{SELECTIONS[name]} (rule {rule}{ranked})"


def objective(row: Mapping[str, Any]) -> str:
    """Return what training did."""
    name = row.get("objective")
    return OBJECTIVES.get(name or "", said(name))
