"""Turn texts into padded batches of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seuf.inputs import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


class Batch(NamedTuple):
    """Padded samples.

    Attributes:
        input_ids: (B, T) of int64.
        attention_mask: 1 on tokens, 0 on padding, (B, T) of int64.
        positions: Where each row stood among the samples; None if that is the order they come in.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: list[int] | None = None

    @property
    def labels(self) -> Tensor:
        """The token ids with padding marked `IGNORED`, (B, T)."""
        return self.input_ids.masked_fill(self.attention_mask == 0, IGNORED)

    def part(self, rows: Sequence[int]) -> Batch:
        """Return some rows that follow one another, still as wide as the batch."""
        part = slice(rows[0], rows[-1] + 1)
        positions = None if self.positions is None else self.positions[part]
        return Batch(self.input_ids[part], self.attention_mask[part], positions)

    def inputs(self, device: torch.device) -> dict[str, Tensor | None]:
        """Return what a decoder is called with.

        No token sees what stands to its right, so padding on the right needs no mask; attention
        without one is faster, and a GPU need not wait for the answer if there is padding at all.
        """
        padded_on_the_left = (self.attention_mask[:, 1:] > self.attention_mask[:, :-1]).any()
        mask = self.attention_mask.to(device) if padded_on_the_left else None
        return {"input_ids": self.input_ids.to(device), "attention_mask": mask}


def as_batch(given: Batch | Mapping[str, Any]) -> Batch:
    """Return a batch as it is, or from a mapping such as a tokenizer returns."""
    if isinstance(given, Batch):
        return given
    ids = torch.as_tensor(given["input_ids"])
    mask = given.get("attention_mask")
    return Batch(ids, torch.ones_like(ids) if mask is None else torch.as_tensor(mask))


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return each text's token ids, cut at `max_length`; texts without tokens are left out.

    Raises:
        InputError: If the texts are one string, which would be taken letter by letter.
    """
    if isinstance(texts, str):
        raise InputError("Give a list of texts: one string came.")
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


def pad(
    samples: Sequence[Sequence[int]],
    padding: int,
    positions: list[int] | None = None,
    width: int | None = None,
) -> Batch:
    """Return the samples as one batch, filled up on the right to the longest or to `width`."""
    width = max(len(sample) for sample in samples) if width is None else width
    rows = [[*sample, *[padding] * (width - len(sample))] for sample in samples]
    mask = [[1] * len(sample) + [0] * (width - len(sample)) for sample in samples]
    return Batch(torch.tensor(rows), torch.tensor(mask), positions)


def by_length(samples: Sequence[Sequence[int]], batch_size: int, padding: int) -> Iterator[Batch]:
    """Yield all samples, longest first: padding is rare, and memory runs out at once or never."""
    order = sorted(range(len(samples)), key=lambda position: -len(samples[position]))
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        yield pad([samples[position] for position in positions], padding, positions)
