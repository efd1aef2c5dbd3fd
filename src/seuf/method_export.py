"""`kedro export`: write a method's model as a checkpoint of its own, with a model card."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from kedro_dvc.evidence import read_record
from kedro_dvc.hashing import sha256s
from kedro_dvc.project import Study
from seuf.audit import FAIL
from seuf.audit.ledger import entry_of_delta, read_ledger, served_by
from seuf.audit.requests import enter_derived
from seuf.datasets.checkpoint import REFERENCE, source_of
from seuf.inputs import InputError
from seuf.moe.checkpoints import Checkpoint
from seuf.moe.deltas import Delta, export
from seuf.moe.hub import HubReference, fetch_files, is_folder
from seuf.moe.loading import checkpoint_of
from seuf.moe.settings import ExternalModelSettings
from seuf.reporting.model_card import LICENCE, BaseModel, Exported, has_scores, model_card

CARD = "README.md"


def export_method(study: Study, method: str, folder: Path) -> str | None:
    """Write the checkpoint of a method's model, in the hub's layout, with its model card.

    If the model serves a request, the export is entered in the ledger. Files that the method has
    not changed are hard links to the base model's where one file system has both. Everything is
    written into a temporary folder, which is then moved.

    Args:
        study: A study that has run.
        method: A name from its table of methods.
        folder: The new folder; it must not exist.

    Returns:
        The id of the request that the model serves; None if it serves none.

    Raises:
        InputError: If there is no such method, it has not run, the folder exists, or the base model
            is not the delta's.
    """
    from seuf.audit.audited import AuditedMethod

    settings = AuditedMethod(study, method).settings
    if folder.exists():
        raise InputError(f"{folder} exists: name a folder that does not.")
    described, base = _base(_output(study, "base_model"), study.config["parameters"]["base_model"])
    path = _output(study, f"{method}.delta")
    delta, digest = Delta.load(path), sha256s([path])[path]
    ledger = read_ledger(study.project)
    exported = Exported(
        base=described,
        digest=delta.base,
        delta=digest,
        study=study.config["globals"]["study"],
        method=method,
        settings=settings,
        experts=[(layer, expert) for layer, expert in delta.about.get("experts", [])],
        texts=(_lines(study, "forget_set"), _lines(study, "retain_set")),
        changed={key: tensor.numel() for key, tensor in delta.tensors.items()},
        total=sum(p.numel() for p in Checkpoint(base).empty_model().parameters()),
        requests=served_by(ledger, digest),
        commit=_commit_of_run(study, f"{method}.delta", digest),
    )
    card = model_card(exported, pd.read_csv(_output(study, "comparison")))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        unfinished = Path(temporary, folder.name)  # the temporary folder's mode is 0700
        export(base, delta, unfinished)
        (unfinished / CARD).write_text(card, encoding="utf-8")
        unfinished.rename(folder)
    serving = entry_of_delta(ledger, digest)
    if serving is None:
        return None
    return str(enter_derived(study.project, serving, folder, "export")["request"])


def check_exported(study: Study, method: str, folder: Path) -> None:
    """Check that a folder has a method's model and nothing else, and that its card has scores.

    Args:
        study: A study that has run.
        method: A name from its table of methods.
        folder: The result of `export_method`; its card may have been edited.

    Raises:
        InputError: If it has not.
    """
    from seuf.audit.audited import AuditedMethod
    from seuf.audit.exported import check_files

    audited = AuditedMethod(study, method, folder)
    _ = audited.settings  # raises if the study has no such method
    card = folder / CARD
    if not card.is_file() or not has_scores(card.read_text(encoding="utf-8"), method):
        raise InputError(
            f"{card} lacks the scores of {method}, without which its model is not published: "
            "`kedro export` writes them once the whole study has run."
        )
    for name in ("base_model", f"{method}.delta"):
        _output(study, name)  # raises if it is missing
    checks = [*check_files(audited.base[1], folder), *audited.weights.checks]
    if wrong := next((check for check in checks if check.result == FAIL), None):
        raise InputError(f"{folder} is not the model of {method}: {wrong.text}.")


def _output(study: Study, name: str) -> Path:
    """Return the path of an existing output.

    Raises:
        InputError: If it does not exist.
    """
    path = Path(study.dataset(name)["filepath"])
    if not path.exists():
        raise InputError(f"{path} is missing: `kedro dvc run --env {study.name}` makes it.")
    return path


def _base(path: Path, settings: dict[str, Any]) -> tuple[BaseModel, Path]:
    """Return the card's description of the base model, and the folder of its checkpoint.

    Args:
        path: The study's base model, or its reference to one elsewhere.
        settings: `base_model` of the study's parameters.
    """
    if (path / REFERENCE).is_file():
        source = source_of(json.loads((path / REFERENCE).read_text(encoding="utf-8")))
        return _described(source, "external"), checkpoint_of(source)
    origin = settings.get("source", "pretrain")
    if "path" not in settings:
        return BaseModel(path.name, origin), path
    source = ExternalModelSettings(
        **{key: settings[key] for key in ("path", "revision") if key in settings}
    )
    return _described(source, origin), path


def _described(source: ExternalModelSettings, origin: str) -> BaseModel:
    """Return the card's description of an existing model, without any path on this machine."""
    reference = HubReference(source.path, source.revision)
    try:
        on_hub = not is_folder(reference)
    except InputError:  # the folder has been removed
        on_hub = False
    try:
        metadata = _metadata(fetch_files(reference, (CARD,)) / CARD)
    except InputError:  # the hub cannot be reached, or the folder has been removed
        metadata = {}
    return BaseModel(
        name=source.path if on_hub else Path(source.path).name,
        source=origin,
        on_hub=on_hub,
        commit=source.revision if on_hub else None,
        licence={key: metadata[key] for key in LICENCE if key in metadata},
    )


def _metadata(card: Path) -> dict[str, Any]:
    """Return a card's front matter; an empty dict if there is no card or no front matter."""
    from huggingface_hub import metadata_load

    return (metadata_load(card) or {}) if card.is_file() else {}


def _commit_of_run(study: Study, output: str, digest: str) -> str | None:
    """Return the commit whose run made an output with this digest; None if not recorded."""
    node = next(node for node in study.pipelines["__default__"].nodes if output in node.outputs)
    try:
        record = read_record(study.project, study.name, node.name)
    except (ValueError, KeyError):
        return None
    if record is None or digest not in record["outputs"].values():
        return None
    return record["commit"] if record["clean"] else f"{record['commit']} with later edits"


def _lines(study: Study, name: str) -> int | None:
    """Return the number of texts in a set; None if it is missing: it may have been erased."""
    path = Path(study.dataset(name)["filepath"])
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(1 for _ in file)
