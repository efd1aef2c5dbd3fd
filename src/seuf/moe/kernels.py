"""The softmax over a vocabulary and its gradient in two passes over the logits, for a GPU.

In torch it takes seven, through float32 copies; for a large vocabulary that is half of a training
step. Triton comes with torch on Linux; where it or a C compiler is missing, torch does it.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from typing import Any

import torch
from torch import Tensor

BLOCK = 4096


def nll_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's negative log-likelihood and its gradient of the logits.

    Args:
        logits: (n, V).
        targets: Token of each row (n,); any valid one where nothing is predicted.

    Returns:
        NLL (n,) in float32 or finer, and the gradient (n, V) in the type of the logits.
    """
    if logits.is_cuda and _kernel() is not None:
        return _on_gpu(logits, targets)
    wanted = targets[:, None]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    values = logits.log_softmax(-1, dtype=dtype)
    nll = -values.gather(1, wanted)[:, 0]
    # In place from here on: probabilities, and then less one where the target is.
    values.exp_().scatter_add_(1, wanted, -torch.ones_like(values[:, :1]))
    return nll, values.to(logits.dtype)


def _on_gpu(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    rows, vocabulary = logits.shape
    logits, gradient = logits.contiguous(), torch.empty_like(logits)
    nll = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _kernel()[(rows,)](logits, targets, nll, gradient, vocabulary, BLOCK=BLOCK, num_warps=8)
    return nll, gradient


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
            places = first + tl.arange(0, BLOCK)
            values = tl.load(logits + start + places, places < vocabulary, float("-inf"))
            values = values.to(tl.float32)
            higher = tl.maximum(highest, tl.max(values, 0))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(values - higher), 0)
            highest = higher
        norm = highest + tl.log(total)
        tl.store(nll + row, norm - tl.load(logits + start + target).to(tl.float32))
        for first in range(0, vocabulary, BLOCK):
            places = first + tl.arange(0, BLOCK)
            inside = places < vocabulary
            values = tl.load(logits + start + places, inside, float("-inf")).to(tl.float32)
            slope = tl.exp(values - norm) - tl.where(places == target, 1.0, 0.0)
            tl.store(gradient + start + places, slope.to(gradient.dtype.element_ty), inside)

    return kernel
