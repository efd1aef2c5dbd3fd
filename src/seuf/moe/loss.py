"""How well a model predicts its tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from seuf.moe.architectures import input_device
from seuf.moe.batches import IGNORED, Batch


def token_nll(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return each token's negative log-likelihood in nats and which positions count.

    Computed from the logits, never from the model's own `loss`, to which several architectures
    add a load-balancing term.

    Returns:
        NLL (B, T-1) in float32, 0 where nothing is predicted, and a mask (B, T-1) of bool.
    """
    inputs = batch.to(input_device(model))
    logits = model(**inputs._asdict(), use_cache=False).logits.float()
    # The labels are shifted, not the logits: a slice of those would be copied as a whole.
    targets = F.pad(inputs.labels[:, 1:], (0, 1), value=IGNORED).to(logits.device)
    nll = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED
    )
    return nll.view_as(targets)[:, :-1], targets[:, :-1] != IGNORED
