"""Checkpoints of tiny models in folders, as the hub has them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.tiny import tiny_model


def saved(model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a tiny model in several files."""
    tiny_model(model_type).to(dtype).save_pretrained(folder, max_shard_size="60KB")
    return folder


def loaded(folder: Path) -> Any:
    """Return a model as plain transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder).eval()
