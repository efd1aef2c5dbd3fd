"""Pass samples through a model, from the first trained layer on.

What lies below that layer is the same in every step: it is computed once for each sample and kept.
The original model is never held beside the one in training either: what is needed of it is
computed before the first step, while the weights are still its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from seuf.moe.architectures import decoder, input_device
from seuf.moe.batches import Batch
from seuf.moe.loss import batch_nll
from seuf.moe.models import LanguageModel
from seuf.moe.prefix import frozen_prefix, hidden_before, stop_after
from seuf.moe.states import HiddenStates
from seuf.unlearning.objectives import Hidden, TokenNLL


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
        self.first_layer, self.states = first_layer, None
        if cached and first_layer > 0:
            self.states = self._prefix(used)

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return samples as a right-padded batch."""
        rows = [self.ids[position] for position in positions]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.padding)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return Batch(ids, mask.long(), list(positions))

    def nll(self, batch: Batch) -> TokenNLL:
        """Return the token losses of a batch (B, T-1)."""
        with self._from_first_layer(batch):
            return TokenNLL(*batch_nll(self.model, batch))

    def hidden(self, batch: Batch, layer: int) -> Hidden:
        """Return what leaves a decoder layer (B, T, d), in float32; no layer above it runs."""
        inputs = batch.inputs(input_device(self.model))
        with stop_after(self.model, layer) as reached, self._from_first_layer(batch):
            decoder(self.model)(**inputs, use_cache=False)
        hidden = reached.hidden.float()
        return Hidden(hidden, batch.attention_mask.bool().to(hidden.device))

    @torch.no_grad()
    def nll_sums(self, positions: Sequence[int]) -> dict[int, Tensor]:
        """Return each sample's NLL as the model is now, summed over its tokens."""
        sums: dict[int, Tensor] = {}
        for batch in self._batches(positions, "reference losses"):
            sums |= zip(batch.positions or (), self.nll(batch).sums(), strict=True)
        return sums

    @torch.no_grad()
    def hidden_states(self, positions: Sequence[int], layer: int) -> HiddenStates:
        """Return what leaves a layer for each sample as the model is now."""
        states = self._empty_states(positions)
        for batch in self._batches(positions, "reference activations"):
            states.put(batch.positions or (), self.hidden(batch, layer).values)
        return states

    def _prefix(self, positions: Sequence[int]) -> HiddenStates:
        states = self._empty_states(positions)
        for batch in self._batches(positions, f"layers below {self.first_layer}"):
            hidden = hidden_before(self.model, self.first_layer, batch)
            states.put(batch.positions or (), hidden)
        return states

    def _from_first_layer(self, batch: Batch) -> AbstractContextManager[None]:
        if self.states is None:
            return nullcontext()
        hidden = self.states.batch(batch.positions or (), batch.input_ids.shape[1])
        return frozen_prefix(self.model, self.first_layer, hidden)

    def _empty_states(self, positions: Sequence[int]) -> HiddenStates:
        lengths = {position: len(self.ids[position]) for position in positions}
        size, dtype = self.model.config.hidden_size, self.model.dtype
        return HiddenStates(lengths, size, dtype, input_device(self.model))

    def _batches(self, positions: Sequence[int], what: str) -> Iterator[Batch]:
        """Yield the samples, longest first, as many as pass at once."""
        order = sorted(positions, key=lambda position: -len(self.ids[position]))
        starts = range(0, len(order), self.batch_size)
        for start in tqdm(starts, desc=what, unit="batch", disable=None):
            yield self.batch(order[start : start + self.batch_size])
