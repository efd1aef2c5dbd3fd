"""A delta: the tensors in which an unlearned model differs from its base, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from seuf.errors import InputError

_ROW = re.compile(r"(?P<name>.+)\[(?P<row>\d+)\]")


@dataclass(frozen=True)
class Delta:
    """The changed tensors of a model.

    Attributes:
        tensors: New values by parameter name; `name[e]` is row e of a fused expert tensor.
        base: `model_digest` of the model they replace tensors of.
    """

    tensors: dict[str, Tensor]
    base: str
    about: dict[str, object] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the delta as safetensors; the same delta gives the same bytes."""
        from safetensors.torch import save_file

        # One metadata key: safetensors writes several in a random order.
        header = json.dumps({"base": self.base, "about": self.about}, sort_keys=True)
        temporary = path.with_name(f"{path.name}.tmp")
        tensors = {name: self.tensors[name].contiguous() for name in sorted(self.tensors)}
        try:
            save_file(tensors, temporary, metadata={"seuf": header})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Delta:
        """Return the delta that `save` wrote.

        Raises:
            InputError: If the file is not a delta.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get("seuf")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
        if header is None:
            raise InputError(f"{path} is not a SEUF delta: it has no 'seuf' header.")
        return cls(tensors, **json.loads(header))

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[nn.Module]:
        """Give the model the delta's tensors inside the context, and its own back after it.

        Raises:
            InputError: If the model is not the delta's base, to the bit.
        """
        if (digest := model_digest(model)) != self.base:
            raise InputError(
                f"This delta belongs to base model {self.base[:12]}; "
                f"the model given is {digest[:12]}."
            )
        targets = {name: parameter_rows(model, name) for name in self.tensors}
        saved = {name: target.clone() for name, target in targets.items()}
        _copy(self.tensors, targets)
        try:
            yield model
        finally:
            _copy(saved, targets)


def parameter_rows(model: nn.Module, name: str) -> Tensor:
    """Return the storage a delta key names: a whole parameter, or one row of it."""
    row = _ROW.fullmatch(name)
    if row is None:
        return model.get_parameter(name).detach()
    return model.get_parameter(row["name"]).detach()[int(row["row"])]


def model_digest(model: nn.Module) -> str:
    """Return the SHA-256 over the names, types, shapes and bytes of all parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _copy(tensors: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(tensors[name])


def changed_share(model: nn.Module, delta: Delta) -> float:
    """Return the share of the model's parameters that lie in changed tensors."""
    changed = sum(tensor.numel() for tensor in delta.tensors.values())
    return changed / sum(parameter.numel() for parameter in model.parameters())
