"""Load a base model and its tokenizer; make small ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seuf.errors import InputError
from seuf.moe.settings import ExternalModelSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer, in evaluation mode.

    `source` says where it was loaded from; None for a model made here.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ExternalModelSettings | None = None

    @property
    def padding(self) -> int:
        """Token id to fill rows up with; any will do, since padding is masked."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return pad if pad is not None else (end or 0)

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain transformers loads; the same model gives the same bytes."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_model(source: ExternalModelSettings) -> LanguageModel:
    """Return the MoE model of a folder, or of a hub id at a revision.

    Raises:
        InputError: If there is no model, or it is not a known MoE architecture.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = _config(source)
    path, revision = source.path, source.revision
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, config=config, dtype=source.dtype
        )
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except OSError as error:
        raise InputError(f"Cannot load the model {source.path!r}: {_first_line(error)}") from error
    return LanguageModel(model.to(_device(source.device)).eval(), tokenizer, source)


def _config(source: ExternalModelSettings) -> Any:
    """Return the model's configuration, refused before any weight is read if it is not a MoE."""
    from transformers import AutoConfig

    from seuf.moe.architectures import check_model_type

    try:
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
    except (OSError, ValueError) as error:
        raise InputError(f"There is no model at {source.path!r}: {_first_line(error)}") from error
    check_model_type(config.model_type)
    return config


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
