"""What a stage has come to, should it be killed: a file that is gone when the stage has ended."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from seuf.inputs import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.unlearning.resumption import Kept

SOURCE = Path(__file__).parents[1]
DECIDING = ("moe", "unlearning", "benchmarks", "pipelines/unlearning")  # what a run ends in
LIBRARIES = ("torch", "transformers")
NAME = "unfinished.safetensors"
OWNER_ONLY = 0o600
log = logging.getLogger(__name__)


class ProgressDataset(AbstractDataset[Any, Any]):
    """A `FileProgress`: a node that reads it can be killed, and goes on when it runs again.

    A hook of the project gives each node its own file, and deletes it when the outputs are saved.
    It is an input of no stage, and DVC does not see it.

    Args:
        folder: The node's file lies below, in the folder of its namespace.
        metadata: For kedro-viz.
    """

    def __init__(self, folder: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder, self.metadata = Path(folder), metadata

    def load(self) -> FileProgress:
        """Return what keeps progress in a file."""
        return FileProgress(self._folder)

    def save(self, data: Any) -> None:
        """Refuse: what is loaded saves by itself."""
        raise InputError("Progress is saved by the node that makes it: it is no node's output.")

    def _describe(self) -> dict[str, Any]:
        return {"folder": self._folder}


class FileProgress:
    """A `seuf.unlearning.resumption.Progress` in a safetensors file that its owner alone can read.

    Args:
        folder: Where the file lies.
        besides: Tells what decides the run's result beside its key.
    """

    def __init__(self, folder: Path, besides: str = "") -> None:
        self.path, self.besides = folder / NAME, besides
        self.start, self.earlier = time.perf_counter(), 0.0

    def of(self, name: str) -> FileProgress:
        """Return the same in a folder below."""
        return FileProgress(self.path.parent / name, self.besides)

    def given(self, *data: Any) -> FileProgress:
        """Return the same, for a run whose result these data decide too; its time begins."""
        told = json.dumps(data, sort_keys=True).encode()
        return FileProgress(self.path.parent, hashlib.sha256(told).hexdigest())

    def delete(self) -> None:
        """Delete the file."""
        for path in (self.path, _temporary(self.path)):
            path.unlink(missing_ok=True)

    def seconds(self) -> float:
        """Return how long the run has taken, in the processes before this one too."""
        return self.earlier + time.perf_counter() - self.start

    def load(self, key: str) -> Kept | None:
        """Return what a run of this key has left, if code and libraries are what they were."""
        from safetensors import SafetensorError

        from seuf.unlearning.resumption import Kept

        if not self.path.is_file():
            return None
        try:
            header, tensors = _read(self.path)
            unlike = [what for what, mark in self._marks(key).items() if header[what] != mark]
            facts, seconds = header["facts"], float(header["seconds"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s): starting afresh", self.path, error)
            return None
        if unlike:
            log.warning("%s is of other %s: starting afresh", self.path, " and ".join(unlike))
            return None
        self.earlier = seconds
        return Kept(tensors, facts)

    def save(self, key: str, kept: Kept) -> None:
        """Write the file, whole or not at all; a run is not stopped because that cannot be done."""
        from safetensors import SafetensorError

        header = {**self._marks(key), "facts": kept.facts, "seconds": self.seconds()}
        try:
            _write(self.path, kept.tensors, header)
        except (SafetensorError, OSError) as error:
            log.warning("What this run has come to cannot be kept: %s", error)
            with suppress(OSError):
                _temporary(self.path).unlink()

    def _marks(self, key: str) -> dict[str, Any]:
        return {
            "data or settings": key,
            "questions": self.besides,
            "code": _code(),
            "libraries": [version(name) for name in LIBRARIES],
        }


@cache
def _code() -> str:
    """Return the digest of the code that decides what a run ends in, as it was when first asked."""
    digest = hashlib.sha256()
    for path in sorted(path for room in DECIDING for path in (SOURCE / room).rglob("*.py")):
        digest.update(f"{path.relative_to(SOURCE)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})["seuf"])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    temporary.touch(OWNER_ONLY)  # before anything is in it
    whole = {name: _alone(tensor) for name, tensor in tensors.items()}
    save_file(whole, temporary, metadata={"seuf": json.dumps(header)})
    temporary.replace(path)


def _alone(tensor: Tensor) -> Tensor:
    """Return a tensor as safetensors takes it: on the CPU, and not a part of another one."""
    tensor = tensor.detach().cpu().contiguous()
    is_part = tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone() if is_part else tensor


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")
