"""Read whole checkpoints on disk, and write one with some of its tensors changed.

A checkpoint is a folder as `save_pretrained` writes it and the hub has it: `config.json`, one or
more safetensors files, and an index if they are several.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from seuf.inputs import InputError
from seuf.moe.digests import digest_of, type_of
from seuf.moe.hub import INDEX, SINGLE
from seuf.moe.names import empty_checkpoint, rows_of_experts, same_bits, split_row, to_checkpoint


class Checkpoint:
    """The tensors of a checkpoint, each read when it is asked for.

    Attributes:
        folder: Where it lies.
        files: The file that holds each key, but for the copies.
        copies: Keys that are stored beside the one they are tied to, with the same bits, each with
            that one: a loaded model has no such tensor.

    Raises:
        InputError: If the folder is not a checkpoint in safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, _files(folder)
        self._opened = cache(lambda file: safe_open(folder / file, framework="pt"))
        self.copies = {
            copy: source
            for copy, source in _tied_keys(folder).items()
            if self.files.keys() >= {copy, source} and same_bits(self[copy], self[source])
        }
        self._file_of_copy = {copy: self.files.pop(copy) for copy in self.copies}

    def __getitem__(self, key: str) -> Tensor:
        return self._opened(self.files[key]).get_tensor(key)

    def in_order(self) -> list[str]:
        """Return the keys, those of one file together."""
        return sorted(self.files, key=lambda key: (self.files[key], key))

    def empty_model(self) -> Any:
        """Return the model that the checkpoint is of, in the types it loads in, without weights."""
        from transformers import AutoModelForCausalLM

        from seuf.moe.loading import keep_bars_out_of_logs

        keep_bars_out_of_logs()
        model = AutoModelForCausalLM.from_pretrained(self.folder, device_map={"": "meta"})
        if self.copies:  # without values transformers cannot see that they are tied
            model.tie_weights()
        return model

    def all_files(self) -> dict[str, str]:
        """Return the file that holds each key, copies too."""
        return {**self.files, **self._file_of_copy}


def folder_digest(folder: Path, dtypes: dict[str, str]) -> str:
    """Return the `model_digest` of the model in a folder, loaded in the given types.

    What the folder holds beyond the model, as some checkpoints do, has no part in it.

    Raises:
        InputError: If the folder lacks something that the model needs.
    """
    checkpoint = Checkpoint(folder)
    keys = empty_checkpoint(checkpoint.empty_model()).keys()
    if missing := sorted(keys - checkpoint.files.keys()):
        raise InputError(f"{folder} is not a whole checkpoint: it lacks {', '.join(missing[:3])}.")
    loaded = (
        (key, checkpoint[key].to(type_of(key, dtypes)))
        for key in checkpoint.in_order()
        if key in keys
    )
    return digest_of(loaded, total=len(keys))


def fused_keys(model: Any) -> set[str]:
    """Return the keys that hold all experts of a layer in one tensor."""
    tensors, fused = model.state_dict(), set[str]()
    for name, experts in rows_of_experts(model).items():
        parts = to_checkpoint(model, name, tensors[name])
        fused |= parts.keys() if len(parts) < experts else set()
    return fused


def write_changed(base: Path, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a checkpoint like `base` with some tensors changed.

    Files that are not touched are linked (copied to another file system), so they cost nothing: do
    not edit them in place. The folder is written under a temporary name, then renamed.

    Args:
        base: Folder of a checkpoint.
        tensors: New values by key, see `seuf.moe.names`.
        folder: Does not exist yet.
    """
    checkpoint, changed = Checkpoint(base), dict[str, dict[str, Tensor]]()
    files = checkpoint.all_files()
    copies = {copy: tensors[of].clone() for copy, of in checkpoint.copies.items() if of in tensors}
    for key, value in {**tensors, **copies}.items():
        changed.setdefault(files[split_row(key)[0]], {})[key] = value
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch, folder.name)
        new.mkdir()
        for path in sorted(path for path in base.iterdir() if path.is_file()):
            if path.name in changed:
                _write_file(path, changed[path.name], new / path.name)
            elif path.suffix == ".safetensors":
                _link(path, new / path.name)
            else:
                shutil.copyfile(path, new / path.name)
        new.rename(folder)


def _files(folder: Path) -> dict[str, str]:
    if (index := folder / INDEX).is_file():
        return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    if (single := folder / SINGLE).is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), SINGLE)
    raise InputError(f"{folder} is not a checkpoint: it holds neither {INDEX} nor {SINGLE}.")


def _tied_keys(folder: Path) -> dict[str, str]:
    """Return the keys that a model's configuration ties to others, each with that one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError):  # none, or one with Python files of its own
        return {}
    if not getattr(config, "tie_word_embeddings", False):
        return {}
    with torch.device("meta"):
        return dict(AutoModelForCausalLM.from_config(config).all_tied_weights_keys)


def _write_file(path: Path, changed: dict[str, Tensor], target: Path) -> None:
    """Write a file with some of its tensors, or rows of them, changed."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for key, value in changed.items():
        name, row = split_row(key)
        if row is not None:
            tensors[name][row] = value
        else:  # in the file's type, or in its own if that would round it
            stored = value.to(tensors[name].dtype)
            tensors[name] = stored if torch.equal(stored.to(value.dtype), value) else value
    save_file(tensors, target, metadata=metadata)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)
