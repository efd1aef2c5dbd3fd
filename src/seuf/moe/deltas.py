"""A delta: the tensors in which an unlearned model differs from its base, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seuf.errors import InputError
from seuf.moe.architectures import decoder
from seuf.moe.digests import checkpoint_dtypes, model_digest, unchanged_since
from seuf.moe.places import layer_of, places_of, storage, to_checkpoint, write
from seuf.moe.residence import resident


@dataclass
class Delta:
    """The changed tensors of a model.

    Attributes:
        tensors: New values by the key of the checkpoint, as `seuf.moe.places` has it; `key[e]` is
            one expert's row of a tensor that is fused in the checkpoint.
        base: `model_digest` of the model they replace tensors of.
        dtypes: Types the base model was loaded in, see `checkpoint_dtypes`.
        about: What made it; anything that JSON can hold.
    """

    tensors: dict[str, Tensor]
    base: str
    dtypes: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, changed: dict[str, Tensor], base: str) -> Delta:
        """Return the delta of new values by place (see `seuf.moe.places`) in a base model."""
        tensors = {
            key: value.contiguous().clone()
            for place, tensor in changed.items()
            for key, value in to_checkpoint(model, place, tensor).items()
        }
        return cls(tensors, base, checkpoint_dtypes(model))

    def save(self, path: Path) -> None:
        """Write the delta as safetensors; the same delta gives the same bytes."""
        from safetensors.torch import save_file

        # One metadata key: safetensors writes several in a random order.
        header = {"base": self.base, "dtypes": self.dtypes, "about": self.about}
        temporary = path.with_name(f"{path.name}.tmp")
        tensors = {key: self.tensors[key].contiguous() for key in sorted(self.tensors)}
        try:
            save_file(tensors, temporary, metadata={"seuf": json.dumps(header, sort_keys=True)})
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
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
        if header is None:
            raise InputError(f"{path} is not a SEUF delta: it has no 'seuf' header.")
        return cls(tensors, **json.loads(header))

    def apply(self, model: nn.Module) -> None:
        """Give the model the delta's tensors.

        Raises:
            InputError: If the model is not the delta's base, to the bit.
        """
        if (digest := model_digest(model)) != self.base:
            raise InputError(
                f"This delta belongs to base model {self.base[:12]}; "
                f"the model given is {digest[:12]}."
            )
        _applied.setdefault(model, []).append(_Applied(self, model))

    def revert(self, model: nn.Module) -> None:
        """Give the model back what it had before `apply`, to the bit.

        Raises:
            InputError: If the delta is not the one that was applied last.
        """
        stack = _applied.get(model, [])
        if not stack or stack[-1].delta is not self:
            raise InputError("This delta is not the last one that was applied to the model.")
        stack.pop().undo(model)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[nn.Module]:
        """Give the model the delta's tensors inside the context, and its own back after it.

        Raises:
            InputError: If the model is not the delta's base, to the bit.
        """
        self.apply(model)
        try:
            yield model
        finally:
            self.revert(model)

    def lowest_layer(self, model: nn.Module) -> int:
        """Return the first decoder layer that the delta changes; the last one if it is empty."""
        places = places_of(model, self.tensors)
        last = len(decoder(model).layers) - 1
        return min((layer_of(model, place) for place in places), default=last)


class _Applied:
    """A delta in a model, and what was there before."""

    def __init__(self, delta: Delta, model: nn.Module) -> None:
        self.delta, self._stack = delta, ExitStack()
        places = places_of(model, delta.tensors)
        self._stack.enter_context(resident(model, {layer_of(model, place) for place in places}))
        self._before = {place: storage(model, place).clone() for place in places}
        for place in places:
            write(model, place, delta.tensors)

    @torch.no_grad()
    def undo(self, model: nn.Module) -> None:
        for place, before in self._before.items():
            storage(model, place).copy_(before)
        self._stack.close()
        unchanged_since(model, self.delta.base)


_applied: WeakKeyDictionary[nn.Module, list[_Applied]] = WeakKeyDictionary()


def changed_share(model: nn.Module, delta: Delta) -> float:
    """Return the share of the model's parameters that lie in changed tensors."""
    changed = sum(tensor.numel() for tensor in delta.tensors.values())
    return changed / sum(parameter.numel() for parameter in model.parameters())
