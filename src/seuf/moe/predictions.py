"""What a model expected at each place of a text, beside the token that stands there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seuf.moe.loss import row_parts


class Predictions(NamedTuple):
    """Log-likelihoods in nats, in float32 or finer, each (n,).

    Attributes:
        found: Of the token that stands there.
        mean: Of a token drawn from the model's own prediction, on average over the vocabulary.
        variance: Of the same.
    """

    found: Tensor
    mean: Tensor
    variance: Tensor


@torch.no_grad()
def predictions(hidden: Tensor, head: nn.Module, tokens: Tensor) -> Predictions:
    """Return how likely a model finds tokens, and how likely it finds tokens there in general.

    Logits are made for a few rows at a time, see `loss`.

    Args:
        hidden: The hidden state that predicts each token, (n, d).
        head: Makes logits (n, V) of hidden states (n, d), see `loss.output_head`.
        tokens: (n,).
    """
    tokens = tokens.to(hidden.device)
    parts = [_of_logits(head(hidden[p]), tokens[p]) for p in row_parts(hidden, head)]
    found, mean, variance = (torch.cat(part) for part in zip(*parts, strict=True))
    return Predictions(found, mean, variance)


def _of_logits(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    values = logits.log_softmax(-1, dtype=dtype)  # (n, V)
    found = values.gather(1, tokens[:, None])[:, 0]
    shares = values.exp()
    mean = (shares * values).sum(-1)
    # in place, and around the mean: a difference of two squares would lose its digits
    variance = values.sub_(mean[:, None]).square_().mul_(shares).sum(-1)
    return found, mean, variance
