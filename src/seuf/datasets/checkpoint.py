"""Models on disk: whole checkpoints, references to them, and deltas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings

REFERENCE = "reference.json"


class CheckpointDataset(AbstractDataset[LanguageModel, LanguageModel]):
    """A folder with a model and its tokenizer, or with a reference to a model elsewhere.

    Of a model that was loaded from elsewhere only the reference is saved.

    Args:
        filepath: The folder.
        metadata: For kedro-viz and DVC.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath, self.metadata = Path(filepath), metadata

    def load(self) -> LanguageModel:
        """Return the model, in evaluation mode."""
        reference = self._filepath / REFERENCE
        if reference.is_file():
            return load_model(source_of(json.loads(reference.read_text(encoding="utf-8"))))
        return load_model(ExternalModelSettings(path=str(self._filepath)))

    def fingerprint(self, data: LanguageModel) -> Hashable:
        """Return sums of the weights' bits, which change if a node writes to the model."""
        from seuf.moe.digests import sums_of_bits

        return tuple(sums_of_bits(data.model).items())

    def size_of(self, data: LanguageModel) -> int:
        """Return the number of bytes of the weights that `save` writes; 0 for a reference."""
        return data.model.num_parameters() * data.model.dtype.itemsize if data.source is None else 0

    def save(self, data: LanguageModel) -> None:
        """Write the folder under a temporary name, then rename it."""
        temporary = self._filepath.with_name(f"{self._filepath.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if data.source is None:
            data.save(temporary)
        else:
            (temporary / REFERENCE).write_text(_reference(data))
        shutil.rmtree(self._filepath, ignore_errors=True)
        temporary.rename(self._filepath)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}

    def _exists(self) -> bool:
        return self._filepath.is_dir()


class DeltaDataset(AbstractDataset[Any, Any]):
    """A `seuf.moe.deltas.Delta` as one safetensors file.

    Args:
        filepath: The file.
        metadata: For kedro-viz and DVC.
    """

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath, self.metadata = Path(filepath), metadata

    def load(self) -> Any:
        """Return the delta."""
        from seuf.moe.deltas import Delta

        return Delta.load(self._filepath)

    def size_of(self, data: Any) -> int:
        """Return the number of bytes of the delta's tensors."""
        return sum(tensor.nbytes for tensor in data.tensors.values())

    def save(self, data: Any) -> None:
        """Write the delta into a folder for its owner alone: DVC later widens the file's rights."""
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        self._filepath.parent.chmod(0o700)
        data.save(self._filepath)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}

    def _exists(self) -> bool:
        return self._filepath.is_file()


def source_of(reference: dict[str, Any]) -> ExternalModelSettings:
    """Return the source of a referenced model, pinned to the recorded commit."""
    commit = reference.get("commit")
    pinned = {"revision": commit} if commit else {}
    return ExternalModelSettings(**{**reference["source"], **pinned})


def _reference(model: LanguageModel) -> str:
    """Return the model's source and the digest of its weights, as JSON."""
    from seuf.moe.digests import model_digest

    assert model.source is not None
    excluded = {"must_know"}  # checked once, before the reference is written
    if not model.source.trust_remote_code:
        excluded.add("trust_remote_code")
    reference = {
        "source": model.source.model_dump(exclude=excluded),
        "digest": model_digest(model.model),
    }
    if model.commit:
        reference["commit"] = model.commit
    return json.dumps(reference, indent=2, sort_keys=True) + "\n"
