"""Pass samples through a model, from the first trained layer on.

What lies below that layer is the same in every step: it is computed once for each sample and kept.
The original model is never held beside the one in training either: what is needed of it is
computed before the first step, while the weights are still its own.

Padding is on the right, where no token sees it: no mask is needed, and nothing is asked of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from seuf.moe.activations import HiddenStates
from seuf.moe.architectures import decoder, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import IGNORED
from seuf.moe.forward import frozen_prefix, hidden_before, stop_after
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import next_token_nll, output_head
from seuf.moe.routing import skip_packed_sequence_check
from seuf.unlearning.objectives import Hidden, TokenNLL


class Rows(NamedTuple):
    """Right-padded samples on the device, and what enters the first trained layer.

    Attributes:
        input_ids: (B, T).
        mask: Which are no padding, (B, T) of bool.
        prefix: (B, T, d); None if it is not kept.
    """

    input_ids: Tensor
    mask: Tensor
    prefix: Tensor | None


class Trunk:
    """A model and samples to pass through it.

    Args:
        base: The model, in its original state.
        samples: Token ids.
        first_layer: First decoder layer that will be trained.
        used: Positions of the samples that will pass.
        batch_size: Samples that pass at once before the first step.
        cached: Keep what enters the first trained layer, for all samples in use.
    """

    def __init__(
        self,
        base: LanguageModel,
        samples: Sequence[Sequence[int]],
        first_layer: int,
        used: Sequence[int],
        batch_size: int,
        cached: bool = True,
    ) -> None:
        self.model, self.padding, self.batch_size = base.model, base.padding, batch_size
        self.ids = [torch.tensor(sample) for sample in samples]
        self.device, self.head = input_device(self.model), output_head(self.model)
        self.first_layer, self.states = first_layer, None
        self.backoff = Backoff("lower unlearning.max_length")
        if cached and first_layer > 0:
            self.states = self._prefix(used)

    def rows(self, positions: Sequence[int]) -> Rows:
        """Return samples, ready to pass."""
        ids = [self.ids[position] for position in positions]
        padded = pad_sequence(ids, batch_first=True, padding_value=self.padding)
        width = padded.shape[1]
        mask = torch.arange(width) < torch.tensor([len(row) for row in ids])[:, None]
        prefix = None if self.states is None else self.states.batch(positions, width)
        return Rows(padded.to(self.device), mask.to(self.device), prefix)

    def nll(self, rows: Rows) -> TokenNLL:
        """Return the token losses of samples (B, T-1)."""
        with self._from_first_layer(rows), skip_packed_sequence_check():
            hidden = decoder(self.model)(**_inputs(rows), use_cache=False)
        labels = rows.input_ids.masked_fill(~rows.mask, IGNORED)
        hidden = hidden.last_hidden_state
        return TokenNLL(*next_token_nll(hidden, self.head, labels.to(hidden.device)))

    def hidden(self, rows: Rows, layer: int) -> Hidden:
        """Return what leaves a decoder layer (B, T, d), in float32; no layer above it runs."""
        with (
            stop_after(self.model, layer) as reached,
            self._from_first_layer(rows),
            skip_packed_sequence_check(),
        ):
            decoder(self.model)(**_inputs(rows), use_cache=False)
        hidden = reached.hidden.float()
        return Hidden(hidden, rows.mask.to(hidden.device))

    @torch.no_grad()
    def nll_sums(self, positions: Sequence[int]) -> dict[int, Tensor]:
        """Return each sample's NLL as the model is now, summed over its tokens."""
        sums: dict[int, Tensor] = {}
        passed = self._passed(positions, "reference losses", lambda rows: self.nll(rows).sums())
        for group, found in passed:
            sums |= zip(group, found, strict=True)
        return sums

    @torch.no_grad()
    def hidden_states(self, positions: Sequence[int], layer: int) -> HiddenStates:
        """Return what leaves a layer for each sample as the model is now."""
        states = self._empty_states(positions)
        what = "reference activations"
        passed = self._passed(positions, what, lambda rows: self.hidden(rows, layer).values)
        for group, hidden in passed:
            states.put(group, hidden)
        return states

    def _prefix(self, positions: Sequence[int]) -> HiddenStates:
        states = self._empty_states(positions)
        below, what = self.first_layer, f"layers below {self.first_layer}"
        passed = self._passed(
            positions, what, lambda rows: hidden_before(self.model, below, rows.input_ids)
        )
        for group, hidden in passed:
            states.put(group, hidden)
        return states

    def _from_first_layer(self, rows: Rows) -> AbstractContextManager[None]:
        if rows.prefix is None:
            return nullcontext()
        return frozen_prefix(self.model, self.first_layer, rows.prefix)

    def _empty_states(self, positions: Sequence[int]) -> HiddenStates:
        lengths = {position: len(self.ids[position]) for position in positions}
        return HiddenStates(lengths, self.model.config.hidden_size, self.model.dtype, self.device)

    def _passed(
        self, positions: Sequence[int], what: str, work: Callable[[Rows], Tensor]
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield as many positions as pass at once, long samples first, and what work makes of them.

        Raises:
            InputError: If one sample alone does not fit in memory.
        """
        order = sorted(positions, key=lambda position: -len(self.ids[position]))
        starts = range(0, len(order), self.batch_size)
        for start in tqdm(starts, desc=what, unit="batch", disable=None):
            group = order[start : start + self.batch_size]
            yield from self.backoff.parts(group, lambda part: work(self.rows(part)))


def _inputs(rows: Rows) -> dict[str, Tensor]:
    """Return what the decoder takes: where the prefix is known, the embeddings are not needed."""
    if rows.prefix is None:
        return {"input_ids": rows.input_ids}
    return {"inputs_embeds": rows.prefix}
