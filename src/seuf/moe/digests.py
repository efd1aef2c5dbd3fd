"""What a model is, in 64 characters: a digest of its checkpoint's keys, types, shapes and bytes.

The digest is the same whether it is taken of a loaded model or of the files it came from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from tqdm import tqdm

from seuf.moe.forward import is_offloaded, stored_tensor
from seuf.moe.names import to_checkpoint, weight_names

AHEAD = 64  # tensors that may wait to be read through
DEFAULT = "default"
_known: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], str]] = WeakKeyDictionary()


def model_digest(model: nn.Module) -> str:
    """Return the digest of a model: SHA-256 over the SHA-256 of each tensor of its checkpoint.

    A model that has not changed since the last time is not hashed again; that is told by its
    tensors' versions, and by their sums for what was written past these.
    """
    fingerprint = _fingerprint(model)
    if model in _known and fingerprint and _known[model][0] == fingerprint:
        return _known[model][1]
    digest = digest_of(checkpoint_tensors(model))
    _known[model] = fingerprint, digest
    return digest


def unchanged_since(model: nn.Module, digest: str) -> None:
    """Note that a model, though written to, is to the bit what it was."""
    _known[model] = _fingerprint(model), digest


def checkpoint_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all that a checkpoint of the model holds, by key, one at a time."""
    tensors = model.state_dict()
    for name in weight_names(model):
        yield from to_checkpoint(model, name, stored_tensor(model, name, tensors[name])).items()


def checkpoint_dtypes(model: nn.Module) -> dict[str, str]:
    """Return the types a model was loaded in: the commonest as `default`, others by their keys."""
    tensors = model.state_dict()
    empty = {name: torch.empty_like(tensors[name], device="meta") for name in weight_names(model)}
    dtypes = {
        key: str(shape.dtype).removeprefix("torch.")
        for name, tensor in empty.items()
        for key, shape in to_checkpoint(model, name, tensor).items()
    }
    commonest = Counter(dtypes.values()).most_common(1)[0][0]
    others = {key: dtype for key, dtype in sorted(dtypes.items()) if dtype != commonest}
    return {DEFAULT: commonest, **others}


def digest_of(tensors: Iterable[tuple[str, Tensor]], total: int | None = None) -> str:
    """Return the digest of keys and tensors, in whatever order they come."""
    lines = sorted(_lines(tqdm(tensors, total=total, desc="hashing", unit="tensor", disable=None)))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _lines(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    """Yield a line a tensor; several are read through at once, few wait."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        waiting: list[Future[str]] = []
        for key, tensor in tensors:
            waiting.append(pool.submit(_line, key, tensor))
            if len(waiting) >= AHEAD:
                yield waiting.pop(0).result()
        yield from (one.result() for one in waiting)


def _line(key: str, tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{key} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(data.data).hexdigest()}\n"


def sums_of_bits(model: nn.Module) -> list[int]:
    """Return the sum of each tensor's bits, eight bytes a number; nothing if it is offloaded.

    Far cheaper than a digest. It tells of accidents, not of a change made to go unnoticed.
    """
    if is_offloaded(model):
        return []
    sums = [_sum_of_bits(tensor.detach()) for tensor in model.state_dict(keep_vars=True).values()]
    return torch.stack([one.to(sums[0].device) for one in sums]).tolist()


def _fingerprint(model: nn.Module) -> list[tuple[int, int]]:
    """Return each tensor's version and sum of bits; nothing for a model that comes and goes."""
    tensors = model.state_dict(keep_vars=True).values()
    return [
        (tensor._version, number)
        for tensor, number in zip(tensors, sums_of_bits(model), strict=False)
    ]


def _sum_of_bits(tensor: Tensor) -> Tensor:
    data = tensor.contiguous().flatten().view(torch.uint8)
    eights = len(data) - len(data) % 8
    return data[:eights].view(torch.int64).sum() + data[eights:].sum()
