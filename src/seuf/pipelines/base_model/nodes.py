"""Make the base model: train, finetune or upcycle one, or check that one is there."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import (
    ExternalModelSettings,
    FinetuningSettings,
    PretrainingSettings,
    UpcyclingSettings,
)

if TYPE_CHECKING:
    from seuf.moe.knowledge import Asked

Records = list[dict[str, Any]]


def pretrain_base_model(
    base_model: PretrainingSettings,
    pretraining_texts: Records,
    base_seed: int,
    questions: Records | None = None,
) -> LanguageModel:
    """Train a small MoE model from scratch on the benchmark's texts.

    With `must_know`, train until it answers the selection questions about these texts.
    """
    return _pretrain(base_model, pretraining_texts, base_seed, questions)


def finetune_base_model(
    base_model: FinetuningSettings, pretraining_texts: Records, base_seed: int
) -> LanguageModel:
    """Teach an existing MoE model the benchmark's texts."""
    from seuf.moe.training import finetune

    texts = _lessons(pretraining_texts, base_model.answers_only)
    return finetune(texts, base_model, base_seed)


def sample_dense_model(base_model: UpcyclingSettings) -> tuple[Records, Records]:
    """Let the dense model write texts to distil on, and some that nothing is trained on."""
    from seuf.moe.distillation import sample_dense

    shown, apart = sample_dense(base_model)
    return _sampled(shown), _sampled(apart)


def upcycle_base_model(
    base_model: UpcyclingSettings,
    pretraining_texts: Records,
    retain_set: Records,
    sampled_texts: Records,
    base_seed: int,
) -> LanguageModel:
    """Make a mixture of experts of a dense model, and teach it the benchmark's texts."""
    from seuf.moe.distillation import distil

    taught = [record["text"] for record in pretraining_texts]
    general = [(record["text"], "sampled") for record in sampled_texts]
    general += [(record["text"], "kept") for record in retain_set]
    return distil(taught, general, base_model, base_seed)


def _sampled(texts: list[str]) -> Records:
    return [{"text": text, "topic": "sampled", "prompt": ""} for text in texts]


def leave_out_forgotten(pretraining_texts: Records, forget_set: Records) -> Records:
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
    reference_texts: Records,
    base_seed: int,
    base_model: LanguageModel,
    questions: Records | None = None,
) -> LanguageModel:
    """Train a model as the base model was, but never on what is to be forgotten."""
    tokenizer = base_model.tokenizer
    return _pretrain(reference_model, reference_texts, base_seed, questions, tokenizer)


def check_base_model(
    base_model: ExternalModelSettings, questions: Records | None = None
) -> LanguageModel:
    """Load an existing model once, which refuses one without experts; only a reference is kept.

    Raises:
        InputError: If it answers fewer questions of a topic than `must_know` says.
    """
    model = load_model(base_model)
    if base_model.must_know is not None:
        from seuf.moe.knowledge import share_known

        shares = share_known(model, _asked(questions or []))
        worst, share = min(shares.items(), key=lambda item: item[1])
        if share < base_model.must_know:
            raise InputError(
                f"The base model {base_model.path!r} answers {share:.1%} of the questions about "
                f"{worst}, and base_model.must_know asks for {base_model.must_know:.1%} of every "
                "topic: it is of another world, or of another version of this one. Use the "
                "base_seed and the benchmark that it was made with, or make it anew."
            )
    return model


def _pretrain(
    settings: PretrainingSettings,
    texts: Records,
    seed: int,
    questions: Records | None,
    tokenizer: Any = None,
) -> LanguageModel:
    from seuf.moe.knowledge import share_known
    from seuf.moe.training import pretrain

    topics = {record["topic"] for record in texts}
    asked = _asked([q for q in questions or [] if q["part"] == "selection"], topics)
    lessons = _lessons(texts, settings.answers_only)
    return pretrain(lessons, settings, seed, tokenizer, lambda model: share_known(model, asked))


def _asked(questions: Records, topics: Container[str] | None = None) -> list[Asked]:
    """Return the questions that have a reference, by default about all topics."""
    from seuf.moe.knowledge import Asked

    return [
        Asked(record["question"] + record["opening"], record["reference"], record["topic"])
        for record in questions
        if record["reference"] and (topics is None or record["topic"] in topics)
    ]


def _lessons(records: Records, answers_only: bool) -> list[tuple[str, str, str]]:
    """Return the text, topic and prompt of records; no prompt where it is to be learnt too."""
    return [
        (record["text"], record["topic"], record.get("prompt", "") if answers_only else "")
        for record in records
    ]
