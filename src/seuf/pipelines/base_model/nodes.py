"""Make the base model: train a small one, finetune an existing one, or check that one is there."""

from __future__ import annotations

from typing import Any

from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings, FinetuningSettings, PretrainingSettings


def pretrain_base_model(
    base_model: PretrainingSettings, pretraining_texts: list[dict[str, Any]], base_seed: int
) -> LanguageModel:
    """Train a small MoE model from scratch on the benchmark's texts."""
    from seuf.moe.training import pretrain

    texts = _lessons(pretraining_texts, base_model.answers_only)
    return pretrain(texts, base_model, base_seed)


def finetune_base_model(
    base_model: FinetuningSettings, pretraining_texts: list[dict[str, Any]], base_seed: int
) -> LanguageModel:
    """Teach an existing MoE model the benchmark's texts."""
    from seuf.moe.training import finetune

    texts = _lessons(pretraining_texts, base_model.answers_only)
    return finetune(texts, base_model, base_seed)


def leave_out_forgotten(
    pretraining_texts: list[dict[str, Any]], forget_set: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Leave out what is to be forgotten, by its text and by its topic."""
    texts = {record["text"] for record in forget_set}
    topics = {record["topic"] for record in forget_set} - {""}
    return [
        record
        for record in pretraining_texts
        if record["text"] not in texts and record["topic"] not in topics
    ]


def pretrain_reference_model(
    reference_model: PretrainingSettings,
    reference_texts: list[dict[str, Any]],
    base_seed: int,
    base_model: LanguageModel,
) -> LanguageModel:
    """Train a model as the base model was, but never on what is to be forgotten."""
    from seuf.moe.training import pretrain

    texts = _lessons(reference_texts, reference_model.answers_only)
    return pretrain(texts, reference_model, base_seed, base_model.tokenizer)


def check_base_model(base_model: ExternalModelSettings) -> LanguageModel:
    """Load an existing model once, which refuses one without experts; only a reference is kept."""
    return load_model(base_model)


def _lessons(records: list[dict[str, Any]], answers_only: bool) -> list[tuple[str, str, str]]:
    """Return the text, topic and prompt of records; no prompt where that is to be learnt too."""
    return [
        (record["text"], record["topic"], record.get("prompt", "") if answers_only else "")
        for record in records
    ]
