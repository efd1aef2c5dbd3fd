"""Turn texts into padded batches of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


class Batch(NamedTuple):
    """Right-padded samples: `input_ids` and `attention_mask`, both (B, T) of int64."""

    input_ids: Tensor
    attention_mask: Tensor

    @property
    def labels(self) -> Tensor:
        """The token ids with padding marked `IGNORED`, (B, T)."""
        return self.input_ids.masked_fill(self.attention_mask == 0, IGNORED)

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on another device."""
        return Batch(self.input_ids.to(device), self.attention_mask.to(device))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return each text's token ids, cut at `max_length`; texts without tokens are left out."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return [ids for ids in encoded if ids]


def pack(samples: Iterable[Sequence[int]], length: int, end: int) -> list[list[int]]:
    """Return blocks of `length` ids: the samples one after the other, each closed by `end`.

    The last block may be shorter; no token is dropped.
    """
    stream = [token for sample in samples for token in (*sample, end)]
    return [stream[start : start + length] for start in range(0, len(stream), length)]


def pad(samples: Sequence[Sequence[int]], padding: int) -> Batch:
    """Return the samples as one batch, filled up on the right to the longest of them."""
    width = max(len(sample) for sample in samples)
    rows = [[*sample, *[padding] * (width - len(sample))] for sample in samples]
    mask = [[1] * len(sample) + [0] * (width - len(sample)) for sample in samples]
    return Batch(torch.tensor(rows), torch.tensor(mask))


def by_length(
    samples: Sequence[Sequence[int]], batch_size: int, padding: int
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield all samples, longest first so that padding is rare, each batch with its positions."""
    order = sorted(range(len(samples)), key=lambda position: -len(samples[position]))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        yield pad([samples[position] for position in positions], padding), positions
