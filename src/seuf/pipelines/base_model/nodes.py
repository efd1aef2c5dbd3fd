"""A base model is trained here, or it exists and is only looked at."""

from __future__ import annotations

from typing import Any

from seuf.moe.models import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings, PretrainingSettings


def pretrain_base_model(
    base_model: PretrainingSettings, pretraining_texts: list[dict[str, Any]], base_seed: int
) -> LanguageModel:
    """Train a small MoE model from scratch on the benchmark's texts."""
    from seuf.moe.pretraining import pretrain

    texts = [(record["text"], record["topic"]) for record in pretraining_texts]
    return pretrain(texts, base_model, base_seed)


def check_base_model(base_model: ExternalModelSettings) -> LanguageModel:
    """Load an existing model once, refuse it if it is not a MoE, and note where and what it is."""
    return load_model(base_model)
