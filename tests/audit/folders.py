"""A tiny base, a delta that a method could have made of it, and the checkpoint of both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from seuf.moe.checkpoints import Checkpoint
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.names import split_row
from seuf.unlearning.scopes import selected_experts
from seuf.unlearning.settings import Method
from tests.tiny import loaded, saved

METHOD = Method(scope="experts", selection="contrast", objective="ga")
EXPERTS = [(1, 2)]
EXPERT = {  # of layer 1; one architecture keeps experts apart, the other fuses them
    "qwen2_moe": "model.layers.1.mlp.experts.{}.down_proj.weight",
    "granitemoe": "model.layers.1.block_sparse_moe.input_linear.weight[{}]",
}


class Unlearned(NamedTuple):
    """Folders of a base and an exported checkpoint, and the delta between them."""

    base: Path
    out: Path
    delta: Delta


def unlearned(model_type: str, folder: Path, router: str = "layer") -> Unlearned:
    """Return a base in which expert 2 of layer 1, and its router, have been changed."""
    base, out = saved(model_type, folder / "base"), folder / "out"
    (base / "tokenizer.json").write_text("{}")
    model = loaded(base)
    trained = selected_experts(model, EXPERTS, router).trained
    changed = {place: tensor.detach() + 0.5 for place, tensor in trained.items()}
    delta = Delta.of(model, changed, model_digest(model))
    export(base, delta, out)
    (out / "README.md").write_text("What was done.")
    return Unlearned(base, out, delta)


def flip(folder: Path, key: str) -> None:
    """Flip the lowest bit of one number in a checkpoint; files that it is linked to stay."""
    name, row = split_row(key)
    file = folder / Checkpoint(folder).files[name]
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    whole = tensors[name] if row is None else tensors[name][row]
    whole.view(torch.int32)[0, 0] ^= 1
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})


def own(path: Path) -> Path:
    """Return a file after it was made one of its own, no longer linked to another."""
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    return copy.replace(path)
