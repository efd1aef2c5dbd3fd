"""Turn texts into samples, and samples into padded batches of token ids.

A sample is a list of token ids. `text_samples` and `pack` return `Sample`s, which also hold the
span of each text in them and which of its tokens count for a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, takewhile
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
        positions: Position of each row among all samples; None if the rows are in their order.
    """

    input_ids: Tensor
    attention_mask: Tensor
    positions: list[int] | None = None

    @property
    def labels(self) -> Tensor:
        """The token ids with padding marked `IGNORED`, (B, T)."""
        return self.input_ids.masked_fill(self.attention_mask == 0, IGNORED)

    def part(self, rows: Sequence[int]) -> Batch:
        """Return some consecutive rows, as wide as the batch."""
        part = slice(rows[0], rows[-1] + 1)
        positions = None if self.positions is None else self.positions[part]
        return Batch(self.input_ids[part], self.attention_mask[part], positions)

    def inputs(self, device: torch.device) -> dict[str, Tensor | None]:
        """Return the arguments for a decoder.

        No token attends to its right, so padding on the right needs no mask; attention without one
        is faster, and nothing on a GPU has to be read to know whether there is padding.
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


class Span(NamedTuple):
    """Where a text lies in a sample, `start` to `stop`; losses count its tokens from `counted`."""

    start: int
    counted: int
    stop: int


class Sample(list[int]):
    """Token ids of one text, or of several one after the other, and the span of each."""

    def __init__(self, ids: Iterable[int], texts: Iterable[Span]) -> None:
        super().__init__(ids)
        self.texts = list(texts)


def spans_of(sample: Sequence[int]) -> list[Span]:
    """Return where a sample's texts lie; plain token ids are one text, of which all counts."""
    return sample.texts if isinstance(sample, Sample) else [Span(0, 0, len(sample))]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, split: bool = False
) -> list[list[int]]:
    """Return each text's token ids, cut at `max_length` or split; empty texts are left out.

    Raises:
        InputError: If `texts` is a single string, which would be read as a list of letters.
    """
    if not split:
        return [ids for ids in _encode(tokenizer, texts, max_length) if ids]
    encoded = _encode(tokenizer, texts, None)
    return [part for ids in encoded for part, _ in even_parts(tokenizer, ids, max_length) if part]


def even_parts(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], max_length: int
) -> list[tuple[list[int], int]]:
    """Return a text as the fewest parts of at most `max_length` tokens, of equal length.

    Each begins with the beginning-of-text token, if the text does; no token is lost.

    Returns:
        For each part its token ids, and the index of its first token that no part before it has.
    """
    if len(ids) <= max_length:
        return [(ids, 0)]
    begin = ids[:1] if ids[0] == tokenizer.bos_token_id and max_length > 1 else []
    body = ids[len(begin) :]
    number = -(-len(body) // (max_length - len(begin)))
    ends = [len(body) * at // number for at in range(number + 1)]
    parts = [([*begin, *body[first:last]], len(begin)) for first, last in pairwise(ends)]
    return [(parts[0][0], 0), *parts[1:]]


def tell_long(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    split: bool,
    where: str,
) -> str | None:
    """Return a sentence about the texts that are longer than a sample; None if there are none.

    Args:
        tokenizer: Of the model.
        texts: The texts.
        max_length: Tokens in a sample.
        split: Whether they are split; else they are cut.
        where: Name of the settings group that holds `long_texts`.
    """
    lengths = text_lengths(tokenizer, texts)
    long = [length for length in lengths if length > max_length]
    if not long:
        return None
    number = f"{len(long)} of {len(texts)} texts have more than {max_length} tokens"
    if split:
        return f"{number} ({where}.max_length): they are split, all {sum(lengths)} tokens are used."
    cut, every = sum(long) - max_length * len(long), sum(lengths)
    return (
        f"{number} and are cut: {cut} of {every} tokens ({cut / every:.1%}) are not used; set "
        f"{where}.long_texts to split."
    )


def text_lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each whole text."""
    return [len(ids) for ids in _encode(tokenizer, texts, None)]


def open_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return each text's token ids without an end token, so that the text can be continued.

    Some tokenizers close every text with their end token; it is kept only if the text itself ends
    in it. A text that has a beginning-of-text token of its own does not get a second one.
    """
    rows: list[list[int]] = tokenizer(list(texts))["input_ids"] if texts else []
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    opened = []
    for text, ids in zip(texts, rows, strict=True):
        if begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        own = 1 if end is not None and text.endswith(str(tokenizer.eos_token)) else 0
        last = [end] * (own + 1)
        opened.append(ids[:-1] if end is not None and ids[-len(last) :] == last else ids)
    return opened


def text_samples(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    prompts: Sequence[str] = (),
    split: bool = False,
) -> list[Sample]:
    """Return a sample of each text: its token ids, closed by the tokenizer's end of text.

    A text of `max_length` tokens or more is cut there and not closed; one that is empty, or cut
    before its first token that counts, is left out, as in TOFU's own code (locuslab/tofu 8c49eee,
    data_module.py). A long text that is split gives several samples: see `even_parts`.

    Args:
        tokenizer: If it has no end-of-text token, no text is closed.
        texts: The texts.
        max_length: Maximum number of tokens in a sample.
        prompts: The beginning of each text that counts for no loss; by default there is none. A
            token that reaches beyond the prompt counts.
        split: Whether a text of more than `max_length` tokens is split.

    Raises:
        InputError: If `texts` is a single string, or a text does not begin with its prompt.
    """
    by_text = samples_by_text(tokenizer, texts, max_length, prompts, split)
    return [sample for samples in by_text for sample in samples]


def samples_by_text(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    prompts: Sequence[str] = (),
    split: bool = False,
) -> list[list[Sample]]:
    """Return the samples of each text, see `text_samples`; none if no token of it counts."""
    prompts = prompts or [""] * len(texts)
    if len(prompts) != len(texts):
        raise InputError(f"Give a prompt for each text: {len(prompts)} and {len(texts)} came.")
    for text, prompt in zip(texts, prompts, strict=True):
        if not text.startswith(prompt):
            raise InputError(f"The text {text[:60]!r} does not begin with its prompt {prompt!r}.")
    end, by_text = tokenizer.eos_token_id, []
    limit = None if split else max_length
    encoded = _encode(tokenizer, texts, limit)
    openings = _encode(tokenizer, prompts, limit) if any(prompts) else [[]] * len(prompts)
    for text, ids, opening in zip(texts, encoded, openings, strict=True):
        samples, passed, counted = [], 0, shared_beginning(ids, opening)
        # one of just `max_length` is not closed
        if end is not None and len(ids) != max_length and ids[-1:] != [end]:
            ids = [*ids, end]
        for part, first in even_parts(tokenizer, ids, max_length) if text else []:
            counts = first + min(max(counted - passed, 0), len(part) - first)
            passed += len(part) - first
            if counts < len(part):
                samples.append(Sample(part, [Span(0, counts, len(part))]))
        by_text.append(samples)
    return by_text


def shared_beginning(ids: Sequence[int], opening: Sequence[int]) -> int:
    """Return the length of the common prefix of the ids and the opening."""
    pairs = zip(ids, opening, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None
) -> list[list[int]]:
    """Return each text's token ids, cut at `max_length`; None cuts nothing."""
    if isinstance(texts, str):
        raise InputError("Give a list of texts: one string came.")
    if not texts:
        return []
    if max_length is None:
        return tokenizer(list(texts), verbose=False)["input_ids"]  # it would warn of long ones
    return tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]


def pack(samples: Iterable[Sequence[int]], length: int) -> list[Sample]:
    """Return samples of at most `length` tokens that hold the given ones, none of them split.

    Best fit: each goes where it leaves the least space. No token is dropped.
    """
    packed: list[Sample] = []
    with_room: dict[int, list[Sample]] = {}  # what is packed so far, by the tokens it has room for
    for sample in samples:
        fitting = (room for room in range(len(sample), length + 1) if with_room.get(room))
        room = next(fitting, None)
        if room is None:
            packed.append(block := Sample([], []))
        else:
            block = with_room[room].pop()
        at = len(block)
        block.texts += [Span(*(at + place for place in span)) for span in spans_of(sample)]
        block += sample
        with_room.setdefault(length - len(block), []).append(block)
    return packed


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


def by_length(
    samples: Sequence[Sequence[int]], batch_size: int, padding: int, tokens: int = 0
) -> Iterator[Batch]:
    """Yield all samples, longest first: padding is rare, and memory runs out at once or never.

    Args:
        samples: Token ids.
        batch_size: Samples in a batch.
        padding: Any token id.
        tokens: Short samples fill a batch up to so many, padding included: a GPU takes as long for
            few of them as for many.
    """
    order = sorted(range(len(samples)), key=lambda position: -len(samples[position]))
    start = 0
    while start < len(order):
        size = max(batch_size, tokens // max(1, len(samples[order[start]])))
        positions = order[start : start + size]
        yield pad([samples[position] for position in positions], padding, positions)
        start += size
