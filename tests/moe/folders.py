"""Checkpoints of tiny models in folders, as the hub has them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from seuf.moe.deltas import Delta
from seuf.moe.digests import model_digest
from tests.moe.test_deltas import some_change
from tests.tiny import tiny_model


def saved(model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a tiny model in several files."""
    tiny_model(model_type).to(dtype).save_pretrained(folder, max_shard_size="60KB")
    return folder


def delta_of(folder: Path) -> Delta:
    """Return a delta of the model in a folder."""
    model = loaded(folder)
    return Delta.of(model, some_change(model), model_digest(model))


def loaded(folder: Path) -> Any:
    """Return a model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()
