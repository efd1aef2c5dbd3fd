"""Identify a model's weights: by a digest, or from one use to the next by sums of their bits.

The digest is SHA-256 over the keys, types, shapes and bytes of a model's checkpoint. It is the same
for a loaded model and for the files it came from. Sums of bits cost a fraction of that;
`check_unchanged` compares them with the sums at the time of the digest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from seuf.moe.forward import is_offloaded, stored_tensor
from seuf.moe.names import empty_checkpoint, to_checkpoint, weight_names
from seuf.moe.sharding import own

QUEUE = 64  # tensors that may wait to be hashed
CHUNK = 1 << 22  # integers that are weighted at once
DEFAULT = "default"


class _Fingerprint(NamedTuple):
    """The state of a model: each tensor's version and sum of bits, see `sums_of_bits`."""

    versions: list[int]
    sums: dict[str, int | None]


# The state of the model behind each digest: a state seen before is not hashed again.
_fingerprints: WeakKeyDictionary[nn.Module, dict[str, _Fingerprint]] = WeakKeyDictionary()


def model_digest(model: nn.Module) -> str:
    """Return the digest of a model: SHA-256 over the SHA-256 of each tensor of its checkpoint.

    A model that has not changed since the last call is not hashed again. Its tensors' versions
    show most changes; sums of bits show writes that leave the version as it was.
    """
    fingerprint, known = _fingerprint(model), _fingerprints.setdefault(model, {})
    if not is_offloaded(model):
        for digest, before in known.items():
            if before == fingerprint:
                return digest
    digest = digest_of(checkpoint_tensors(model))
    known[digest] = fingerprint
    return digest


def check_unchanged(model: nn.Module, digest: str) -> None:
    """Raise if a model is not what it was when its digest was taken.

    Compares sums of bits, which is cheap; tensors offloaded now or then are left out.

    Raises:
        RuntimeError: With the names of tensors that differ.
    """
    if digest not in _fingerprints.get(model, {}):
        raise RuntimeError(f"The digest {digest[:12]} was not taken of this model.")
    fingerprint = _fingerprint(model)
    before, now = _fingerprints[model][digest].sums, fingerprint.sums
    changed = sorted(before.keys() ^ now.keys()) + [
        name
        for name in before
        if name in now and before[name] != now[name] and None not in (before[name], now[name])
    ]
    if changed:
        raise RuntimeError(
            f"The base model {digest[:12]} was changed while it was in use, in {len(changed)} "
            f"tensors: {', '.join(changed[:3])}. Whatever scores a model must not write to it; "
            "load the base model again."
        )
    _fingerprints[model][digest] = fingerprint


def checkpoint_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the key and value of each tensor in a checkpoint of the model, one at a time."""
    tensors = model.state_dict()
    for name in weight_names(model):
        yield from to_checkpoint(model, name, stored_tensor(model, name, tensors[name])).items()


def checkpoint_dtypes(model: nn.Module) -> dict[str, str]:
    """Return the types a model was loaded in: the most common as `default`, others by key."""
    dtypes = {
        key: str(tensor.dtype).removeprefix("torch.")
        for key, tensor in empty_checkpoint(model).items()
    }
    commonest = Counter(dtypes.values()).most_common(1)[0][0]
    others = {key: dtype for key, dtype in sorted(dtypes.items()) if dtype != commonest}
    return {DEFAULT: commonest, **others}


def type_of(key: str, dtypes: dict[str, str]) -> torch.dtype:
    """Return the type that a tensor is loaded in, given the result of `checkpoint_dtypes`."""
    return getattr(torch, dtypes.get(key, dtypes[DEFAULT]))


def digest_of(tensors: Iterable[tuple[str, Tensor]], total: int | None = None) -> str:
    """Return the digest of keys and tensors, which does not depend on their order.

    Tensors are hashed in threads, and at most `QUEUE` of them wait in memory.
    """
    shown = tqdm(tensors, total=total, desc="hashing", unit="tensor", disable=None)
    lines: list[str] = []
    with ThreadPoolExecutor(cpu_count()) as pool:
        waiting: list[Future[str]] = []
        for key, tensor in shown:
            waiting.append(pool.submit(digest_line, key, tensor))
            if len(waiting) >= QUEUE:
                lines.append(waiting.pop(0).result())
        lines += [one.result() for one in waiting]
    return digest_of_lines(lines)


def digest_line(key: str, tensor: Tensor) -> str:
    """Return a tensor's line in a digest: its key, type, shape and SHA-256."""
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{key} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(data.data).hexdigest()}\n"


def digest_of_lines(lines: Iterable[str]) -> str:
    """Return the digest of a model from the lines of all its tensors."""
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def sums_of_bits(model: nn.Module) -> dict[str, int | None]:
    """Return the `sum_of_bits` of each tensor by name, buffers that no checkpoint holds included.

    None if a tensor is offloaded. Of a model that processes share, each sums its own part.
    """
    state = model.state_dict()
    tensors = {name: state[name] for name in weight_names(model)} | dict(model.named_buffers())
    numbers = iter(integers(sum_of_bits(own(t)) for t in tensors.values() if not t.is_meta))
    return {name: None if tensor.is_meta else next(numbers) for name, tensor in tensors.items()}


def integers(sums: Iterable[Tensor]) -> list[int]:
    """Return the values of scalar tensors, fetched from their device in one transfer."""
    waiting = list(sums)
    return torch.stack([one.to(waiting[0].device) for one in waiting]).tolist() if waiting else []


def sum_of_bits(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits as 64-bit integers, each times an odd weight of its own.

    The weights let it notice values that changed places. Far cheaper than a digest; it detects
    accidents, not deliberate changes that keep the sum.
    """
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    data = F.pad(data, (0, -len(data) % 8)) if len(data) % 8 else data
    numbers, total = data.view(torch.int64), torch.zeros((), dtype=torch.int64, device=data.device)
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        positions = torch.arange(start, start + len(part), device=part.device)
        total += (part * (2 * positions + 1)).sum()
    return total


def _fingerprint(model: nn.Module) -> _Fingerprint:
    versions = [tensor._version for tensor in model.state_dict(keep_vars=True).values()]
    return _Fingerprint(versions, sums_of_bits(model))
