"""`kedro export`: a method's model as a checkpoint of its own, with a page that tells of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd

from kedro_dvc.project import Study
from seuf.datasets.checkpoint import REFERENCE, source_of
from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.deltas import Delta, export
from seuf.moe.loading import checkpoint_of
from seuf.reporting.model_card import Exported, model_card

CARD = "README.md"


def export_method(study: Study, method: str, folder: Path) -> None:
    """Write the checkpoint of a method's model, in the layout of the hub, and its model card.

    Files that the method has not changed are linked to those of the base model where they are on
    one file system. All is written into a new folder beside it, then moved.

    Args:
        study: Has run.
        method: Of its table of methods.
        folder: Does not exist yet.

    Raises:
        InputError: If there is no such method, it has not run, the folder exists, or the base model
            is not the one that it was made from.
    """
    methods = study.config["parameters"]["methods"]
    if method not in methods:
        raise InputError(
            f"The study {study.name!r} has no method {method!r}; it has {', '.join(methods)}."
        )
    if folder.exists():
        raise InputError(f"{folder} exists: name a folder that does not.")
    name, base = _base(_output(study, "base_model"))
    delta = Delta.load(_output(study, f"{method}.delta"))
    exported = Exported(
        base=name,
        digest=delta.base,
        study=study.config["globals"]["study"],
        method=method,
        settings=dict(methods[method]),
        texts=(_lines(_output(study, "forget_set")), _lines(_output(study, "retain_set"))),
        changed={key: tensor.numel() for key, tensor in delta.tensors.items()},
        total=sum(p.numel() for p in Checkpoint(base).empty_model().parameters()),
    )
    card = model_card(exported, pd.read_csv(_output(study, "comparison")))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        made = Path(unfinished, folder.name)  # within, as the folder itself is its maker's alone
        export(base, delta, made)
        (made / CARD).write_text(card, encoding="utf-8")
        made.rename(folder)


def _output(study: Study, name: str) -> Path:
    """Return where an output lies.

    Raises:
        InputError: If it is not there.
    """
    path = Path(study.dataset(name)["filepath"])
    if not path.exists():
        raise InputError(f"{path} is missing: `kedro dvc run --env {study.name}` makes it.")
    return path


def _base(path: Path) -> tuple[str, Path]:
    """Return the base model's name, and the folder in which its checkpoint lies."""
    if not (path / REFERENCE).is_file():
        return path.name, path
    source = source_of(json.loads((path / REFERENCE).read_text(encoding="utf-8")))
    return source.path, checkpoint_of(source)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
