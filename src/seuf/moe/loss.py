"""Compute how well a model predicts each token, without all logits in memory at once.

A vocabulary is a hundred times as wide as a hidden state: the logits of 4 x 512 tokens, in
float32 and with their gradient, are gigabytes. Where the head is frozen, only the gradient of the
hidden states is needed, and each token's gradient follows from its own logits: they are computed
for a few tokens at a time and freed at once.

The softmax and its gradient take torch seven passes over the logits, through float32 copies; for a
large vocabulary that is half of a training step. On a GPU a Triton kernel takes two. Triton comes
with torch on Linux; where it or a C compiler is missing, torch does it.

`Logits` does the same for losses that need the whole distribution: of a token's prediction with a
soft target, or with what the original model predicts.

With a device map the head may lie on another GPU than the hidden states: what is computed from
logits is computed on their device, and what is returned lies where the hidden states do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, input_device, positions_of
from seuf.moe.backoff import Backoff
from seuf.moe.batches import IGNORED, Batch, by_length, tokenize
from seuf.moe.routing import skip_packed_sequence_check

if TYPE_CHECKING:
    from seuf.moe.loading import LanguageModel

CHUNK_BYTES = 2**28  # of float32 logits at a time
BLOCK = 4096  # logits that the kernel reads at a time

# Of logits (n, V) in float32 and the token that comes next (n,): probabilities (n, V).
SoftTarget = Callable[[Tensor, Tensor], Tensor]
# Of some rows of logits (n, V), and which these are: each one's loss (n,), and its gradient (n, V).
LossOfLogits = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


def batch_nll(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the NLL of a batch's tokens and which positions count, as `next_token_nll` does."""
    hidden = decoder(model)(**batch.inputs(input_device(model)), use_cache=False).last_hidden_state
    return next_token_nll(hidden, output_head(model), batch.labels)


def mean_nll(
    subject_model: LanguageModel,
    texts: Sequence[str],
    max_length: int = 512,
    batch_size: int = 64,
) -> float:
    """Return the mean NLL in nats of all tokens of the texts but each one's first.

    Args:
        subject_model: The model.
        texts: Texts; one of more than `max_length` tokens is split, see `even_parts`.
        max_length: Tokens in one sample, or fewer if the model takes fewer.
        batch_size: Samples at once, or fewer if fewer fit in memory.

    Raises:
        InputError: If no text has two tokens.
    """
    return MeanNLL(subject_model, texts, max_length, batch_size)(subject_model.model)


class MeanNLL:
    """The mean NLL of fixed texts, see `mean_nll`, for a model that changes between calls.

    The texts are copied to a device once; a call waits for the device once, at its end.

    Args:
        subject_model: Its tokenizer is used.
        texts: See `mean_nll`.
        max_length: The same.
        batch_size: The same.

    Raises:
        InputError: If no text has two tokens.
    """

    def __init__(
        self,
        subject_model: LanguageModel,
        texts: Sequence[str],
        max_length: int = 512,
        batch_size: int = 64,
    ) -> None:
        length = min(max_length, positions_of(subject_model.model) or max_length)
        samples = tokenize(subject_model.tokenizer, texts, length, split=True)
        self.count = sum(len(sample) - 1 for sample in samples)
        if self.count == 0:
            raise InputError("None of the texts has two tokens: there is nothing to predict.")
        self.batches = list(by_length(samples, batch_size, subject_model.padding))
        self.backoff = Backoff("give shorter texts, or free memory")
        self._given: dict[tuple[torch.device, int, int], tuple[dict[str, Any], Tensor]] = {}

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Return the mean NLL in nats."""
        head, device = output_head(model), input_device(model)

        def nll_sum(batch: Batch) -> Tensor:
            inputs, labels = self._given_for(batch, device)
            hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
            return next_token_nll(hidden, head, labels)[0].sum()

        with skip_packed_sequence_check():
            sums = [nll for _, nll in self.backoff.map_batches(self.batches, nll_sum)]
        return sum(torch.stack([nll.to(device) for nll in sums]).tolist()) / self.count

    def _given_for(self, batch: Batch, device: torch.device) -> tuple[dict[str, Any], Tensor]:
        positions = batch.positions or []
        key = device, positions[0], len(positions)
        if key not in self._given:
            self._given[key] = batch.inputs(device), batch.labels.to(device)
        return self._given[key]


def next_token_nll(hidden: Tensor, head: nn.Module, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how well each token's hidden state predicts the next token, and where one counts.

    Args:
        hidden: (B, T, d).
        head: See `token_nll`.
        labels: The tokens themselves, padding as `IGNORED`, (B, T).

    Returns:
        NLL (B, T-1) in float32, 0 where nothing is predicted, and a mask (B, T-1) of bool.
    """
    targets = next_tokens(labels.to(hidden.device))
    return token_nll(hidden, head, targets)[:, :-1], targets[:, :-1] != IGNORED


def next_tokens(labels: Tensor) -> Tensor:
    """Return the token that each position should predict (B, T), `IGNORED` at the end.

    The labels are shifted, not the hidden states: a slice of those would be copied as a whole.
    """
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def token_nll(hidden: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Return each token's negative log-likelihood in nats.

    Computed from logits in float32, never from the model's own `loss`, to which several
    architectures add a load-balancing term.

    Args:
        hidden: What the head is given, (..., d).
        head: Makes logits (n, V) of hidden states (n, d), see `output_head`. If it is frozen, no
            logits are kept for the backward pass; else they are made a second time there.
        labels: The token that each position should predict, (...); `IGNORED` where none.

    Returns:
        Of the shape of `labels`, in float32; 0 where nothing is predicted.
    """
    rows, targets = hidden.flatten(0, -2), labels.flatten().to(hidden.device)
    if is_trained(head):
        nll = _trained_head_nll(rows, head, targets)
    else:

        def loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            return nll_and_gradient(logits, targets[part].clamp(min=0).to(logits.device))

        nll = _FrozenHeadLoss.apply(rows, head, targets != IGNORED, loss)
    return nll.view(labels.shape)


class Logits(NamedTuple):
    """The next-token logits of a batch, made of hidden states a few tokens at a time.

    Attributes:
        hidden: What the head is given, (B, T, d).
        head: Makes logits (n, V) of hidden states (n, d), see `output_head`.
        labels: The tokens themselves, `IGNORED` where one is not to be predicted, (B, T).
    """

    hidden: Tensor
    head: nn.Module
    labels: Tensor

    def of_samples(self, part: slice) -> Logits:
        """Return those of some samples of the batch."""
        return Logits(self.hidden[part], self.head, self.labels[part])

    def nll(self) -> tuple[Tensor, Tensor]:
        """Return each token's NLL (B, T-1), and where one counts, see `next_token_nll`."""
        return next_token_nll(*self)

    def cross_entropy(
        self, target: SoftTarget, of: Logits | None = None, less_entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return -sum_v q_v log p_v in nats for each token, q a soft target, and where one counts.

        Args:
            target: Makes q, through which no gradient passes, of logits and the next token.
            of: The logits that it is made of, of the same tokens; by default these.
            less_entropy: Return sum_v q_v (log q_v - log p_v) instead.

        Returns:
            Values (B, T-1) in float32, 0 where nothing is predicted, and a mask (B, T-1) of bool.
        """
        tokens = next_tokens(self.labels.to(self.hidden.device))
        rows, flat, source = self.hidden.flatten(0, -2), tokens.flatten(), of or self
        seen = source.hidden.flatten(0, -2)

        def loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
            with torch.no_grad():
                before = logits if source is self else source.head(seen[part]).to(logits.device)
                q = target(before.to(log_p.dtype), flat[part].clamp(min=0).to(logits.device))
            values = -(q * log_p).sum(-1)
            if less_entropy:
                values = values - torch.special.entr(q).sum(-1)
            return values, (log_p.detach().exp() - q).to(logits.dtype)

        if is_trained(self.head):

            def of_rows(rows: Tensor, part: slice) -> Tensor:
                return loss(self.head(rows), part)[0].to(rows.device)

            values = _in_parts(of_rows, rows, self.head) * (flat != IGNORED)
        else:
            values = _FrozenHeadLoss.apply(rows, self.head, flat != IGNORED, loss)
        return values.view(tokens.shape)[:, :-1], tokens[:, :-1] != IGNORED

    def divergence(self, original: Logits) -> tuple[Tensor, Tensor]:
        """Return KL(original || these) in nats for each token, and where one counts.

        Returns:
            As `cross_entropy`; 0 where both predict the same.
        """
        return self.cross_entropy(lambda logits, token: logits.softmax(-1), original, True)


def output_head(model: Any) -> nn.Module:
    """Return what makes logits of the decoder's last hidden states."""
    head, divisor = model.get_output_embeddings(), getattr(model.config, "logits_scaling", 1)
    return head if divisor == 1 else ScaledHead(head, divisor)


class ScaledHead(nn.Module):
    """An output head whose logits are divided by a number, as Granite has it."""

    def __init__(self, head: nn.Module, divisor: float) -> None:
        super().__init__()
        self.head, self.divisor = head, divisor

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits (..., V)."""
        return self.head(hidden) / self.divisor


def row_parts(rows: Tensor, head: nn.Module) -> list[slice]:
    """Return slices of rows whose logits in float32 take `CHUNK_BYTES` at most."""
    vocabulary = max(parameter.shape[0] for parameter in head.parameters())
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    size = size - size % 64 if size > 64 else size  # matrix units work in tiles
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def is_trained(head: nn.Module) -> bool:
    """Return whether a head's own weights get gradients."""
    return any(parameter.requires_grad for parameter in head.parameters())


class _FrozenHeadLoss(torch.autograd.Function):
    """A loss of logits whose gradient of the hidden states is made beside it, a few rows at a time.

    The backward pass scales it by each token's own upstream gradient, so that any function of the
    losses may follow. What does not count is 0, and has none.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, head: nn.Module, counts: Tensor, loss: LossOfLogits
    ) -> Tensor:
        gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        parts = []
        for part in row_parts(rows, head):
            with torch.set_grad_enabled(gradient is not None):
                hidden = rows[part].detach().requires_grad_(gradient is not None)
                logits = head(hidden)
            values, of_logits = loss(logits.detach(), part)
            parts.append(values.float().to(rows.device))
            if gradient is not None:
                gradient[part] = torch.autograd.grad(logits, hidden, of_logits)[0]
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(counts[:, None]))
        return torch.cat(parts) * counts

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None].to(gradient.dtype), None, None, None


def _trained_head_nll(rows: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    def nll(rows: Tensor, part: slice) -> Tensor:
        logits = head(rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        tokens = targets[part].to(logits.device)
        values = F.cross_entropy(logits, tokens, reduction="none", ignore_index=IGNORED)
        return values.to(rows.device)

    return _in_parts(nll, rows, head)


def _in_parts(loss: Callable[[Tensor, slice], Tensor], rows: Tensor, head: nn.Module) -> Tensor:
    """Return the losses of rows (n,), whose logits are made again in the backward pass."""
    parts = row_parts(rows, head)
    if len(parts) == 1:  # what is that small may as well be kept
        return loss(rows, parts[0])
    return torch.cat([checkpoint(loss, rows[p], p, use_reentrant=False) for p in parts])


def nll_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's negative log-likelihood and its gradient of the logits.

    Args:
        logits: (n, V).
        targets: Token of each row (n,); any valid one where nothing is predicted.

    Returns:
        NLL (n,) in float32 or finer, and the gradient (n, V) in the type of the logits.
    """
    if logits.is_cuda and (kernel := _kernel()) is not None:
        rows, vocabulary = logits.shape
        logits, gradient = logits.contiguous(), torch.empty_like(logits)
        nll = torch.empty(rows, dtype=torch.float32, device=logits.device)
        with torch.cuda.device(logits.device):  # Triton runs on the current GPU, whatever it gets
            kernel[(rows,)](logits, targets, nll, gradient, vocabulary, BLOCK=BLOCK, num_warps=8)
        return nll, gradient
    values = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    nll = -values.gather(1, targets[:, None])[:, 0]
    # In place from here on: probabilities, and then less one where the target is.
    values.exp_().scatter_add_(1, targets[:, None], -torch.ones_like(values[:, :1]))
    return nll, values.to(logits.dtype)


@cache
def _kernel() -> Any:
    """Return the kernel, compiled when it is first called; None if it cannot be."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None
    if compiler is None:
        return None

    @triton.jit
    def kernel(  # type: ignore[no-untyped-def]
        logits,
        targets,
        nll,
        gradient,
        vocabulary,
        BLOCK: tl.constexpr,  # noqa: N803
    ):
        row = tl.program_id(0)
        start = row.to(tl.int64) * vocabulary
        target = tl.load(targets + row)
        highest, total = float("-inf"), 0.0
        for first in range(0, vocabulary, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            values = tl.load(logits + start + columns, columns < vocabulary, float("-inf"))
            values = values.to(tl.float32)
            higher = tl.maximum(highest, tl.max(values, 0))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher), 0)
            highest = higher
        norm = highest + tl.log(total)
        tl.store(nll + row, norm - tl.load(logits + start + target).to(tl.float32))
        for first in range(0, vocabulary, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < vocabulary
            values = tl.load(logits + start + columns, inside, float("-inf")).to(tl.float32)
            slope = tl.exp(values - norm) - tl.where(columns == target, 1.0, 0.0)
            tl.store(gradient + start + columns, slope.to(gradient.dtype.element_ty), inside)

    return kernel
