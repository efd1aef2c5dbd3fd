"""Pass the samples of a step through the model, from the first trained layer on.

The layers below that give the same output in every step: it is computed once for each sample and
kept. There is no second copy of the original model either: what objectives need of it, the
references, is computed before the first step, while the weights are still the original's.

Both sets pass together if the objective needs both. Padding is on the right, where no token attends
to it: no attention mask is needed, and no GPU waits for one. Texts packed into one sample have
losses of their own but share attention: a later text sees the earlier ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from seuf.moe.activations import HiddenStates
from seuf.moe.architectures import decoder, input_device
from seuf.moe.backoff import Backoff
from seuf.moe.batches import IGNORED, spans_of
from seuf.moe.forward import frozen_prefix, hidden_before_each, stop_after
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import Logits, output_head
from seuf.moe.routing import skip_packed_sequence_check
from seuf.moe.sharding import own_rows
from seuf.unlearning.objectives import (
    Counts,
    Hidden,
    Predictions,
    TokenNLL,
    arguments_of,
    inputs_of,
)
from seuf.unlearning.routing_aware import retain_token_weights
from seuf.unlearning.samples import (
    StepBatch,
    common_width,
    counted_tokens,
    draw_batches,
    refusals_of,
    text_numbers,
)
from seuf.unlearning.settings import Experts, Method, UnlearningSettings, samples_at_once

Result = TypeVar("Result")


class ForwardPasses:
    """The batches of a method's steps, and the inputs of its objective on each of them.

    Args:
        base: The model, in its original state.
        forget: Token ids of the samples to forget; a `Sample` also says which tokens count.
        retain: Token ids of the samples to keep, likewise.
        method: Its objective decides what is computed, its batch size the samples of a step.
        settings: Steps, and whether prefixes are kept.
        first_layer: First decoder layer that will be trained.
        steered_layer: Decoder layer whose output RMU steers.
        seed: Decides the order of the samples and RMU's direction.
        experts: The experts in training; without any TRACE finds its own.
        prefixes: Prefixes by first trained layer, of several trials on the same samples. If this
            one's is still None, all are computed in one pass and put here.

    Raises:
        InputError: If one sample alone does not fit in memory.
    """

    def __init__(
        self,
        base: LanguageModel,
        forget: Sequence[Sequence[int]],
        retain: Sequence[Sequence[int]],
        method: Method,
        settings: UnlearningSettings,
        first_layer: int,
        steered_layer: int,
        seed: int,
        experts: Experts | None = None,
        prefixes: dict[int, HiddenStates | None] | None = None,
    ) -> None:
        self.model, self.padding = base.model, base.padding
        self.arguments = arguments_of(str(method.objective))[0]  # what the objective takes
        self.retain_loss = method.retain_loss
        self.names = inputs_of(str(method.objective), method.retain_loss)  # what is computed
        refused = "refusal_nll" in self.names
        refusals = refusals_of(forget, base.tokenizer, settings.refusals, seed) if refused else []
        samples = [*forget, *retain, *refusals]
        self.samples = [torch.tensor(ids) for ids in samples]
        self.counted = [counted_tokens(sample) for sample in samples]
        self.text_numbers = [text_numbers(sample) for sample in samples]
        self.texts = max(len(spans_of(sample)) for sample in samples)
        # All batches of packed samples have one width, so that a step can be recorded.
        self.width = max(map(len, samples)) if self.texts > 1 else 0
        self.device, self.head = input_device(self.model), output_head(self.model)
        self.first_layer, self.steered_layer = first_layer, steered_layer
        size = method.batch_size or settings.batch_size
        self.at_once = samples_at_once(method, settings)
        self.backoff = Backoff("lower unlearning.max_length")
        self.positions = draw_batches(len(forget), len(retain), settings.steps, size, seed)
        self.sets = ["forget"]  # their order in a batch; each has as many samples
        self.sets += ["retain"] if any(name.startswith("retain") for name in self.names) else []
        self.sets += ["refusal"] if refused else []
        if "retain" not in self.sets:
            self.positions = [(drawn, []) for drawn, _ in self.positions]
        if self.device.type == "cuda" and not self.width:
            self.width = common_width(samples, self.positions)
        to_forget = sorted({p for drawn, _ in self.positions for p in drawn})
        to_keep = sorted({p for _, drawn in self.positions for p in drawn})
        self.first_refusal = len(forget) + len(retain) if refused else None
        to_refuse = self._refusals_of(to_forget)

        self.prefix: HiddenStates | None = None
        if settings.prefix_cache and first_layer > 0:
            prefixes = {first_layer: None} if prefixes is None else prefixes
            if prefixes[first_layer] is None:
                prefixes |= self._prefixes([*to_forget, *to_keep, *to_refuse], list(prefixes))
            self.prefix = prefixes[first_layer]
        self._keep_references(base, to_forget, to_keep, to_refuse, method, experts or [])
        self.steering: Tensor | None = None
        if "steering" in self.names:
            self.steering = self._steering_target(method, settings, to_forget, seed)

    def _steering_target(
        self, method: Method, settings: UnlearningSettings, to_forget: list[int], seed: int
    ) -> Tensor:
        """Return RMU's target for the activations of forget tokens, (d,)."""
        length = method.steering_coefficient or settings.objectives.rmu_steering_coefficient
        if method.steering_norms is not None:
            length = method.steering_norms * self.mean_norm(to_forget)
        return steering_vector(self.model.config.hidden_size, length, seed).to(self.device)

    def _keep_references(
        self,
        base: LanguageModel,
        to_forget: list[int],
        to_keep: list[int],
        to_refuse: list[int],
        method: Method,
        experts: Experts,
    ) -> None:
        """Compute what the objective needs of the original model, once for each sample."""
        self.reference_nll: dict[int, Tensor] = {}
        if "forget_reference_nll" in self.names:
            self.reference_nll = self.nll_sums(to_forget)
        if "refusal_reference_nll" in self.names:
            self.reference_nll |= self.nll_sums(to_refuse)
        self.reference_hidden: HiddenStates | None = None
        if "retain_reference_hidden" in self.names:
            self.reference_hidden = self._hidden_states(
                to_keep, "reference activations", lambda batch: self.hidden(batch).values
            )
        self.reference_head: nn.Module | None = None
        self.forget_last = self._last_states(to_forget, "forget_reference_predictions")
        self.retain_last = self._last_states(to_keep, "retain_reference_predictions")
        if self.forget_last or self.retain_last:
            self.reference_head = self.head
            if method.scope == "everything" and not (method.only or method.layers):
                self.reference_head = copy.deepcopy(self.head).requires_grad_(False)
        self.token_weights: HiddenStates | None = None
        if "retain_token_weights" in self.names:
            self.token_weights = self._token_weights(base, to_forget, to_keep, experts)

    def batch(self, step: int) -> StepBatch:
        """Return the batch of a step, counted from 0: its samples and their references."""
        forget, retain = self.positions[step]
        refusals = self._refusals_of(forget)
        batch = self.samples_at([*forget, *retain, *refusals], forget=len(forget))
        if "forget_reference_nll" in self.names:
            batch = batch._replace(forget_reference_nll=self._reference_sums(forget))
        if "refusal_reference_nll" in self.names:
            batch = batch._replace(refusal_reference_nll=self._reference_sums(refusals))
        if self.reference_hidden is not None:
            hidden = self.reference_hidden.batch(retain, batch.input_ids.shape[1])
            batch = batch._replace(retain_reference_hidden=hidden)
        width = batch.input_ids.shape[1]
        if self.forget_last is not None:
            batch = batch._replace(forget_reference_last=self.forget_last.batch(forget, width))
        if self.retain_last is not None:
            batch = batch._replace(retain_reference_last=self.retain_last.batch(retain, width))
        if self.token_weights is not None:
            weights = self.token_weights.batch(retain, width)[..., 0]
            batch = batch._replace(retain_token_weights=weights)
        return batch

    def _refusals_of(self, forget: Sequence[int]) -> list[int]:
        """Return the positions of the refusals of samples to forget, if there are any."""
        first = self.first_refusal
        return [] if first is None else [first + position for position in forget]

    def _reference_sums(self, positions: Sequence[int]) -> Tensor:
        return torch.stack([self.reference_nll[position] for position in positions])

    def micro_batches(self, batch: StepBatch) -> Iterator[StepBatch]:
        """Yield a step's batch in parts that pass the model at once; often that is all of it.

        Processes that share a model each yield their own rows.
        """
        size = len(batch.input_ids) // len(self.sets)
        if size <= self.at_once:
            yield batch
            return
        own = own_rows(size)
        for start in range(own.start, own.stop, self.at_once):
            yield batch.part(slice(start, min(start + self.at_once, own.stop)), size)

    def objective_inputs(self, batch: StepBatch, whole: StepBatch | None = None) -> dict[str, Any]:
        """Return the objective's arguments, by the names in `objectives.OBJECTIVE_INPUTS`.

        Args:
            batch: The batch of a step, or a micro-batch of it.
            whole: The step's batch, over which means are taken; by default `batch`.
        """
        values: dict[str, Any] = {}
        whole, device = whole or batch, self.device
        rows, rows_of_whole = self._rows_of_sets(batch), self._rows_of_sets(whole)
        if self._needs("hidden"):
            hidden = self.hidden(batch)
            device = hidden.values.device  # not the input's if the model is on several devices
            for name, part in rows.items():
                counts = counts_of(whole.mask[rows_of_whole[name], None], device)
                values[f"{name}_hidden"] = Hidden(hidden.values[part], hidden.mask[part], counts)
        if self._needs("nll", "predictions"):
            predictions = self.predictions(batch)
            device = predictions.logits.hidden.device
            for name, part in rows.items():
                counts = counts_of(whole.texts[rows_of_whole[name]], device)
                of_set = predictions.of_samples(part)._replace(whole=counts)
                values |= self._losses(name, of_set, batch)
        for name in ("forget_reference_nll", "refusal_reference_nll"):
            sums = getattr(batch, name)
            values[name] = None if sums is None else sums.flatten()
        values["retain_reference_hidden"] = batch.retain_reference_hidden
        values["steering"] = self.steering
        return {
            name: values[name].to(device) if isinstance(values[name], Tensor) else values[name]
            for name in self.arguments
        }

    def _losses(self, name: str, predictions: Predictions, batch: StepBatch) -> dict[str, Any]:
        """Return the inputs made of the predictions of a set, `forget`, `retain` or `refusal`."""
        values: dict[str, Any] = {f"{name}_predictions": predictions}
        if f"{name}_nll" in self.names:
            values[f"{name}_nll"] = values[f"{name}_loss"] = predictions.nll()
        if name == "retain" and batch.retain_token_weights is not None:
            nll = values["retain_nll"]  # a token's weight is for its prediction of the next token
            weights = batch.retain_token_weights[:, :-1].to(nll.values.device)
            values["retain_loss"] = nll._replace(values=nll.values * weights)
        last = getattr(batch, f"{name}_reference_last", None)
        if last is not None and self.reference_head is not None:
            now = predictions.logits
            logits = Logits(last.to(now.hidden.device), self.reference_head, now.labels)
            values[f"{name}_reference_predictions"] = original = Predictions(logits)
            if name == "retain" and self.retain_loss == "kl":
                values["retain_loss"] = predictions.divergence(original)
        return values

    def _rows_of_sets(self, batch: StepBatch) -> dict[str, slice]:
        """Return the rows of each set in a batch."""
        size = len(batch.input_ids) // len(self.sets)
        return {name: slice(n * size, (n + 1) * size) for n, name in enumerate(self.sets)}

    def _needs(self, *kinds: str) -> bool:
        """Return whether an input of one of these kinds is needed of any set."""
        return any(f"{name}_{kind}" in self.names for name in self.sets for kind in kinds)

    def samples_at(self, positions: Sequence[int], forget: int = 0) -> StepBatch:
        """Return samples as a batch; the first `forget` of them are samples to forget."""
        lengths = torch.tensor([len(self.samples[position]) for position in positions])
        width = max(self.width, int(lengths.max()))

        def padded(rows: Sequence[Tensor], value: int) -> Tensor:
            chosen = pad_sequence([rows[p] for p in positions], True, value)
            return F.pad(chosen, (0, width - chosen.shape[1]), value=value)

        tokens = torch.arange(width) < lengths[:, None]
        numbers = padded(self.text_numbers, -1)
        of_forget = tokens & (torch.arange(len(positions)) < forget)[:, None]
        texts = numbers[:, None] == torch.arange(self.texts)[:, None]
        return StepBatch(
            padded(self.samples, self.padding).to(self.device),
            padded(self.counted, False).to(self.device),
            of_forget.to(self.device),
            texts.to(self.device),
            None if self.prefix is None else self.prefix.batch(positions, width),
        )

    def predictions(self, batch: StepBatch) -> Predictions:
        """Return the predictions of the tokens that count."""
        with self._from_first_layer(batch), skip_packed_sequence_check():
            hidden = decoder(self.model)(**_inputs(batch), use_cache=False).last_hidden_state
        labels = batch.input_ids.masked_fill(~batch.texts.any(1), IGNORED)
        texts = batch.texts[..., 1:].to(hidden.device)
        return Predictions(Logits(hidden, self.head, labels.to(hidden.device)), texts)

    def nll(self, batch: StepBatch) -> TokenNLL:
        """Return the token losses of a batch, (B, T-1)."""
        return self.predictions(batch).nll()

    def hidden(self, batch: StepBatch) -> Hidden:
        """Return the output of the steered layer (B, T, d), in float32; no layer above it runs."""
        with (
            stop_after(self.model, self.steered_layer) as reached,
            self._from_first_layer(batch),
            skip_packed_sequence_check(),
        ):
            decoder(self.model)(**_inputs(batch), use_cache=False)
        hidden = reached.hidden.float()
        return Hidden(hidden, batch.mask.to(hidden.device))

    @torch.no_grad()
    def mean_norm(self, positions: Sequence[int]) -> float:
        """Return the mean norm of the steered layer's output now, over tokens that count."""
        norms, tokens = 0.0, 0
        for _, hidden in self._in_groups(positions, "norms of activations", self.hidden):
            norms += float((hidden.values.norm(dim=-1) * hidden.mask).sum())
            tokens += int(hidden.mask.sum())
        return norms / tokens

    @torch.no_grad()
    def nll_sums(self, positions: Sequence[int]) -> dict[int, Tensor]:
        """Return each sample's NLL by the model as it is now, summed over each text, (S,)."""
        sums: dict[int, Tensor] = {}
        passed = self._in_groups(
            positions, "reference losses", lambda b: self.nll(b).sums().view(-1, self.texts)
        )
        for group, values in passed:
            sums |= zip(group, values, strict=True)
        return sums

    def _token_weights(
        self, base: LanguageModel, to_forget: list[int], to_keep: list[int], experts: Experts
    ) -> HiddenStates:
        """Return the token weights of samples to keep, as hidden states of size 1."""
        forget, retain = ([self.samples[p].tolist() for p in part] for part in (to_forget, to_keep))
        weights = retain_token_weights(base, forget, retain, experts, self.first_layer)
        lengths = {position: len(self.samples[position]) for position in to_keep}
        states = HiddenStates(lengths, 1, torch.float32, self.device)
        for position, weights_of_sample in zip(to_keep, weights, strict=True):
            states.sample(position).copy_(weights_of_sample[:, None])
        return states

    def _last_states(self, positions: Sequence[int], name: str) -> HiddenStates | None:
        """Return the head's inputs by the model as it is now, if `name` is among the inputs needed.

        They are kept instead of logits, which are many times as wide. The original's head makes the
        original's logits of them, to rounding.
        """
        if name not in self.names:
            return None
        return self._hidden_states(
            positions, "reference predictions", lambda batch: self.predictions(batch).logits.hidden
        )

    @torch.no_grad()
    def _prefixes(self, positions: Sequence[int], layers: Sequence[int]) -> dict[int, HiddenStates]:
        """Return the inputs of some layers by the original model, from one pass to the highest."""
        states = {layer: self._empty_states(positions, share=len(layers)) for layer in layers}
        for group, entering in self._in_groups(
            positions,
            f"layers below {max(layers)}",
            lambda batch: hidden_before_each(self.model, layers, batch.input_ids),
        ):
            for layer, hidden in entering.items():
                states[layer].put(group, hidden)
        return states

    def _empty_states(self, positions: Sequence[int], share: int = 1) -> HiddenStates:
        lengths = {position: len(self.samples[position]) for position in positions}
        size = self.model.config.hidden_size
        return HiddenStates(lengths, size, self.model.dtype, self.device, share=share)

    @torch.no_grad()
    def _hidden_states(
        self, positions: Sequence[int], what: str, compute: Callable[[StepBatch], Tensor]
    ) -> HiddenStates:
        states = self._empty_states(positions)
        for group, hidden in self._in_groups(positions, what, compute):
            states.put(group, hidden)
        return states

    def _in_groups(
        self, positions: Sequence[int], what: str, compute: Callable[[StepBatch], Result]
    ) -> Iterator[tuple[Sequence[int], Result]]:
        """Yield positions in groups that pass at once, long samples first, each with its result."""
        order = sorted(positions, key=lambda position: -len(self.samples[position]))
        size = 2 * self.at_once  # as many as a step with a retain term takes
        for start in tqdm(range(0, len(order), size), desc=what, unit="batch", disable=None):
            group = order[start : start + size]
            yield from self.backoff.map_items(group, lambda part: compute(self.samples_at(part)))

    def _from_first_layer(self, batch: StepBatch) -> AbstractContextManager[None]:
        if batch.prefix is None:
            return nullcontext()
        return frozen_prefix(self.model, self.first_layer, batch.prefix)


def counts_of(texts: Tensor, device: torch.device) -> Counts:
    """Return how many tokens and texts count, given which tokens of each text, (B, S, T), bool."""
    return Counts(texts.any(1).sum().to(device), texts.any(-1).sum().to(device))


def steering_vector(size: int, length: float, seed: int) -> Tensor:
    """Return c * u with u uniform in [0, 1)^d and scaled to length 1, as in wmdp rmu/unlearn.py."""
    direction = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    return length * direction / direction.norm()


def _inputs(batch: StepBatch) -> dict[str, Tensor]:
    """Return the decoder's inputs; with a prefix no embeddings are looked up."""
    if batch.prefix is None:
        return {"input_ids": batch.input_ids}
    return {"inputs_embeds": batch.prefix}
