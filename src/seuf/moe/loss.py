"""How well a model predicts its tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seuf.moe.batches import IGNORED, Batch


def token_nll(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return each token's negative log-likelihood in nats and which positions count.

    Computed from the logits, never from the model's own `loss`, to which several architectures
    add a load-balancing term.

    Returns:
        NLL (B, T-1) in float32, 0 where nothing is predicted, and a mask (B, T-1) of bool.
    """
    inputs = batch.to(model.device)
    logits = model(**inputs._asdict(), use_cache=False).logits[:, :-1].float()
    targets = inputs.labels[:, 1:]
    nll = F.cross_entropy(
        logits.transpose(1, 2), targets, reduction="none", ignore_index=IGNORED
    )
    return nll, targets != IGNORED
