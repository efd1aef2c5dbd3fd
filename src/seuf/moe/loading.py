"""Load a base model and its tokenizer, whole or not at all.

What can be checked without the weights is checked before they are read or downloaded: that the
routers are understood, that the weights fit into memory, that there is a tokenizer.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from seuf.inputs import InputError
from seuf.moe.hub import (
    CODE,
    CONFIGURATION,
    IN_FOLDERS,
    LESS_MEMORY,
    SMALL_FILES,
    HubReference,
    clear_errors,
    commit_of,
    fetch_files,
    fetch_weights,
    first_line,
    revision_warning,
)
from seuf.moe.settings import ExternalModelSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GB = 1e9
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer, in evaluation mode.

    `source` says where it was loaded from, None for a model made here; `commit` which commit that
    was on the hub, None for a folder.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ExternalModelSettings | None = None
    commit: str | None = None

    @property
    def padding(self) -> int:
        """The token id used as padding; any token serves, since padding is masked."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return pad if pad is not None else (end or 0)

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain transformers loads; the same model gives the same bytes."""
        keep_bars_out_of_logs()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def keep_bars_out_of_logs() -> None:
    """Turn transformers' own progress bars off where there is no terminal to draw them on."""
    if not sys.stderr.isatty():
        from transformers.utils import logging as of_transformers

        of_transformers.disable_progress_bar()


def load(path: str, revision: str | None = None, **options: Any) -> LanguageModel:
    """Return the MoE model of a folder, or of a hub id at a revision, in evaluation mode.

    Args:
        path: A folder, or a hub id.
        revision: Commit, tag or branch of a hub id.
        options: Others of `ExternalModelSettings`: `dtype`, `device`, `device_map` and so on.

    Raises:
        InputError: See `load_model`.
    """
    return load_model(ExternalModelSettings(path=str(path), revision=revision, **options))


def load_model(source: ExternalModelSettings) -> LanguageModel:
    """Return the MoE model of a folder, or of a hub id at a revision.

    Raises:
        InputError: If there is no model, it is not a MoE model that is understood, it does not fit
            into memory, or something of it is missing or damaged.
    """
    import torch

    from seuf.moe.architectures import moe_layers

    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(gpu if source.device == "auto" else source.device)
    reference, folder = _reference(source), _fetched(source, SMALL_FILES)
    empty = _empty(source, folder)
    moe_layers(empty)
    if source.device_map is None:
        _check_memory(empty, source.path, device)
    trust = source.trust_remote_code
    tokenizer = tokenizer_of(reference, folder, trust_remote_code=trust)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"The tokenizer of the {reference.name} has no token that ends a text: name it as "
            "eos_token in its tokenizer_config.json."
        )
    fetch_weights(reference, folder)
    commit = commit_of(reference, folder)
    if warning := revision_warning(reference, commit, "base_model.revision"):
        logger.warning(warning)
    model = _with_weights(source, folder, device)
    if source.compile:
        from seuf.moe.forward import compile_pieces

        compile_pieces(model)
    return LanguageModel(model.eval(), tokenizer, source, commit)


def checkpoint_of(source: ExternalModelSettings) -> Path:
    """Return the folder with all files of a model: configuration, tokenizer and weights.

    Raises:
        InputError: If there is no such model, or something of it is missing.
    """
    folder = _fetched(source, SMALL_FILES)
    fetch_weights(_reference(source), folder)
    return folder


def empty_model(source: ExternalModelSettings) -> Any:
    """Return a model without its weights, from its configuration alone.

    Raises:
        InputError: If there is none.
    """
    return _empty(source, _fetched(source, CONFIGURATION))


def free_bytes(device: torch.device) -> dict[str, int]:
    """Return how many bytes are free in each memory that a model passes to get to a device."""
    free = {"the CPU's memory": psutil.virtual_memory().available}
    if device.type != "cuda":
        return free
    import torch

    # memory that torch has reserved and does not use is free too
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return {f"{device}'s memory": torch.cuda.mem_get_info(device)[0] + reserved, **free}


def tokenizer_of(reference: HubReference, folder: Path, **options: Any) -> Any:
    """Return the tokenizer of a model.

    Args:
        reference: The model, for messages.
        folder: With the tokenizer's files.
        options: For transformers, such as `trust_remote_code`.

    Raises:
        InputError: If there is none, or its vocabulary is empty.
    """
    from transformers import AutoTokenizer

    with clear_errors(HubReference(reference.path, reference.revision, "tokenizer of the model")):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    tokenizer.init_kwargs["local_files_only"] = False  # it is saved in tokenizer_config.json
    # without the files, transformers returns a tokenizer with an empty vocabulary
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)) + 1:
        raise InputError(
            f"The {reference.name} has no tokenizer: put tokenizer.json and "
            "tokenizer_config.json of the model that it was made from beside its config.json."
        )
    return tokenizer


def _reference(source: ExternalModelSettings) -> HubReference:
    return HubReference(source.path, source.revision)


def _fetched(source: ExternalModelSettings, patterns: tuple[str, ...]) -> Path:
    code = CODE if source.trust_remote_code else ()
    return fetch_files(_reference(source), patterns + code, IN_FOLDERS)


def _empty(source: ExternalModelSettings, folder: Path) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    reference, trust = _reference(source), source.trust_remote_code
    if not (folder / CONFIGURATION[0]).is_file():
        hub_cache = (folder / "snapshots").is_dir()
        inner = "; name one of the folders in its snapshots" if hub_cache else ""
        raise InputError(f"There is no {reference.at}: it holds no config.json{inner}.")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        dtype = config.dtype if source.dtype == "auto" else getattr(torch, source.dtype)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust)
    except Exception as error:
        if not trust and "trust_remote_code" in str(error):
            raise InputError(
                f"The {reference.name} comes with Python files of its own, which would "
                "run to build it: read them, pin base_model.revision, and set "
                "base_model.trust_remote_code to true."
            ) from error
        raise InputError(f"There is no {reference.at}: {first_line(error)}") from error


def _check_memory(empty: Any, name: str, device: torch.device) -> None:
    """Raise if an empty model's weights alone are more than is free where they will go."""
    if getattr(empty.config, "quantization_config", None) is not None:
        return  # the weights on disk are smaller than those of the empty model
    size = sum(parameter.nbytes for parameter in empty.parameters())
    for memory, free in free_bytes(device).items():
        if size > free:
            raise InputError(
                f"The weights of the model {name!r} are {size / GB:.3g} GB in "
                f"{str(empty.dtype).removeprefix('torch.')}, and {free / GB:.3g} GB of {memory} "
                f"are free: {LESS_MEMORY}."
            )


def _with_weights(source: ExternalModelSettings, folder: Path, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    placement: dict[str, Any] = {}
    if source.device_map is not None:
        memory = {int(k) if k.isdigit() else k: size for k, size in source.max_memory.items()}
        placement = {
            "device_map": source.device_map,
            "max_memory": memory or None,
            "offload_folder": source.offload_folder,
        }
    keep_bars_out_of_logs()
    with clear_errors(_reference(source)):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=source.dtype,
            use_safetensors=True,
            trust_remote_code=source.trust_remote_code,
            output_loading_info=True,
            **placement,
        )
        model, info = loaded
        # transformers initialises missing tensors at random
        if missing := sorted(info["missing_keys"]):
            raise InputError(
                f"Cannot load the {_reference(source).name}: its files lack {len(missing)} of its "
                f"tensors, {missing[0]} among them."
            )
        return model if source.device_map is not None else model.to(device)
