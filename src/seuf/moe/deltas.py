"""The tensors in which an unlearned model differs from its base, and nothing else: a delta.

It is applied to the base and reverted, to the bit, or exported as a whole checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import decoder
from seuf.moe.checkpoints import folder_digest, write_changed
from seuf.moe.digests import check_unchanged, checkpoint_dtypes, model_digest
from seuf.moe.forward import keep_on_device
from seuf.moe.names import layer_of, paths_of_keys, tensor_at, to_checkpoint, write

OWNER_ONLY = 0o600


@dataclass
class Delta:
    """The changed tensors of a model.

    Attributes:
        tensors: New values by the key of the checkpoint, as `seuf.moe.names` has it; `key[e]` is
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
        """Return the delta of new values in a base model, by path, see `seuf.moe.names`."""
        tensors = {
            key: value.contiguous().clone()
            for path, tensor in changed.items()
            for key, value in to_checkpoint(model, path, tensor).items()
        }
        return cls(tensors, base, checkpoint_dtypes(model))

    def save(self, path: str | Path) -> None:
        """Write the delta as safetensors; the same delta gives the same bytes.

        Base and delta together are the model before and after, from which what was forgotten can
        be recovered in part: nobody but the owner may read the file.
        """
        from safetensors.torch import save_file

        # One metadata key: safetensors writes several in a random order.
        header = {"base": self.base, "dtypes": self.dtypes, "about": self.about}
        path = Path(path)
        temporary = path.with_name(f"{path.name}.tmp")
        tensors = {key: self.tensors[key].contiguous() for key in sorted(self.tensors)}
        try:
            save_file(tensors, temporary, metadata={"seuf": json.dumps(header, sort_keys=True)})
            temporary.chmod(OWNER_ONLY)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Delta:
        """Return the delta that `save` wrote.

        Raises:
            InputError: If the file is missing, or is not a delta.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get("seuf")
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except OSError as error:
            raise InputError(f"Cannot read the delta {path}: {error}") from error
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file: {error}") from error
        if header is None:
            raise InputError(f"{path} is not a SEUF delta: it has no 'seuf' header.")
        damaged = f"{path} is not a SEUF delta: its 'seuf' header is damaged."
        try:
            delta = cls(tensors, **json.loads(header))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(damaged) from error
        dicts = isinstance(delta.dtypes, dict) and isinstance(delta.about, dict)
        if not dicts or not all(
            isinstance(text, str) for text in (delta.base, *delta.dtypes.values())
        ):
            raise InputError(damaged)
        return delta

    def apply(self, model: nn.Module) -> None:
        """Give the model the delta's tensors.

        Raises:
            InputError: If the model is not the delta's base, to the bit, or a tensor does not fit.
        """
        if (digest := model_digest(model)) != self.base:
            raise InputError(
                f"This delta belongs to base model {self.base[:12]}; "
                f"the model given is {digest[:12]}."
            )
        on_device, paths = ExitStack(), paths_of_keys(model, self.tensors)
        on_device.enter_context(keep_on_device(model, {layer_of(model, path) for path in paths}))
        before = {path: tensor_at(model, path).clone() for path in paths}
        try:
            for path in paths:
                write(model, path, self.tensors)
        except (RuntimeError, IndexError) as error:
            _Application(self, before, on_device).undo(model)
            raise InputError(f"The delta's tensors do not fit the model: {error}") from error
        _applied.setdefault(model, []).append(_Application(self, before, on_device))

    def revert(self, model: nn.Module) -> None:
        """Give the model back what it had before `apply`, to the bit.

        Raises:
            InputError: If the delta is not the one that was applied last.
            RuntimeError: If the model was written to meanwhile, beside the delta's tensors.
        """
        stack = _applied.get(model, [])
        if not stack or stack[-1].delta is not self:
            raise InputError("This delta is not the last one that was applied to the model.")
        stack.pop().undo(model)
        check_unchanged(model, self.base)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[nn.Module]:
        """Give the model the delta's tensors inside the context, and its own back after it.

        Raises:
            InputError: If the model is not the delta's base, to the bit.
            RuntimeError: If more than the delta's tensors was written to inside the context.
        """
        self.apply(model)
        try:
            yield model
        finally:
            self.revert(model)

    def lowest_layer(self, model: nn.Module) -> int:
        """Return the first decoder layer that the delta changes; the last one if it is empty."""
        layers = {layer_of(model, path) for path in paths_of_keys(model, self.tensors)}
        return min(layers, default=len(decoder(model).layers) - 1)


class _Application(NamedTuple):
    """A delta in a model: what was there before, by path, and what keeps its layers on a device."""

    delta: Delta
    before: dict[str, Tensor]
    on_device: ExitStack

    @torch.no_grad()
    def undo(self, model: nn.Module) -> None:
        """Give the model back what was there before."""
        with self.on_device:
            for path, before in self.before.items():
                tensor_at(model, path).copy_(before)


_applied: WeakKeyDictionary[nn.Module, list[_Application]] = WeakKeyDictionary()


def export(base: str | Path, delta: Delta, folder: str | Path) -> None:
    """Write the checkpoint of a base with a delta applied, for plain transformers to load.

    Files that the delta does not touch are linked, see `write_changed`.

    Args:
        base: Folder of the base checkpoint.
        delta: Belongs to it.
        folder: Does not exist yet.

    Raises:
        InputError: If the base is another one or cannot be read, or the folder exists.
    """
    from safetensors import SafetensorError

    base, folder = Path(base), Path(folder)
    if folder.exists():
        raise InputError(f"{folder} exists: name a folder that does not.")
    try:
        digest = folder_digest(base, delta.dtypes)
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"Cannot read the base model {base}: {error}") from error
    if digest != delta.base:
        raise InputError(
            f"This delta belongs to base model {delta.base[:12]}; {base} is {digest[:12]}."
        )
    write_changed(base, delta.tensors, folder)


def changed_share(model: nn.Module, delta: Delta) -> float:
    """Return the share of the model's parameters that lie in changed tensors."""
    changed = sum(tensor.numel() for tensor in delta.tensors.values())
    return changed / sum(parameter.numel() for parameter in model.parameters())
