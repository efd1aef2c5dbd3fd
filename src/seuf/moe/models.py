"""Load a base model and its tokenizer."""

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
        InputError: If there is no model, or it is not a MoE model that is understood.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_architecture(source)
    path, revision = source.path, source.revision
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=source.dtype, **_placement(source)
        )
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except OSError as error:
        raise InputError(f"Cannot load the model {source.path!r}: {_first_line(error)}") from error
    if source.device_map is None:
        model = model.to(_device(source.device))
    if source.compile:
        from seuf.moe.compiled import compile_pieces

        compile_pieces(model)
    return LanguageModel(model.eval(), tokenizer, source)


def check_architecture(source: ExternalModelSettings) -> None:
    """Raise, before any weight is read, if a model is not a MoE model that is understood.

    Raises:
        InputError: With what is wrong.
    """
    from seuf.moe.architectures import moe_layers

    moe_layers(empty_model(source))


def empty_model(source: ExternalModelSettings) -> Any:
    """Return a model without its weights, from its configuration alone.

    Raises:
        InputError: If there is none.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(source.path, revision=source.revision)
        dtype = config.dtype if source.dtype == "auto" else getattr(torch, source.dtype)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (OSError, ValueError) as error:
        raise InputError(f"There is no model at {source.path!r}: {_first_line(error)}") from error


def _placement(source: ExternalModelSettings) -> dict[str, Any]:
    if source.device_map is None:
        return {}
    return {
        "device_map": source.device_map,
        "max_memory": {_number(key): size for key, size in source.max_memory.items()} or None,
        "offload_folder": source.offload_folder,
    }


def _number(device: str) -> int | str:
    return int(device) if device.isdigit() else device


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
