"""Log-likelihoods of tokens, and their mean and variance over the vocabulary."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import nn

from seuf.benchmarks.membership import predictions
from seuf.moe import loss


def head_of(logits: torch.Tensor) -> nn.Linear:
    """Return a head that makes the rows (n, V) of the hidden states of `torch.eye(n)`."""
    head = nn.Linear(len(logits), logits.shape[1], bias=False)
    with torch.no_grad():
        head.weight.copy_(logits.T)
    return head


def test_a_vocabulary_of_two_by_hand():
    """Shares 3/4 and 1/4. Mean: 3/4 log(3/4) + 1/4 log(1/4) = log(1/4) + 3/4 log 3. The two values
    are log 3 apart, so the variance is 3/16 (log 3)^2. With equal shares it is 0.
    """
    logits = torch.tensor([[log(3), 0.0], [5.0, 5.0]])

    found = predictions(torch.eye(2), head_of(logits), torch.tensor([1, 0]))

    assert found.found.tolist() == pytest.approx([log(1 / 4), log(1 / 2)])
    assert found.mean.tolist() == pytest.approx([log(1 / 4) + 3 / 4 * log(3), log(1 / 2)])
    assert found.variance.tolist() == pytest.approx([3 / 16 * log(3) ** 2, 0], abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_a_few_rows_at_a_time_give_the_same(rows, monkeypatch):
    torch.manual_seed(0)
    hidden, tokens = torch.randn(7, 5), torch.arange(7)
    head = nn.Linear(5, 11, bias=False)
    whole = predictions(hidden, head, tokens)
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 11 * rows)
    sizes: list[int] = []
    head.register_forward_hook(lambda _, given, made: sizes.append(len(made)))

    found = predictions(hidden, head, tokens)

    assert max(sizes) == min(rows, 7)
    for values, expected in zip(found, whole, strict=True):
        assert torch.allclose(values, expected, atol=1e-6)


def test_a_certain_model_has_no_negative_variance():
    """Mean of squares less square of the mean would be lost in rounding; logits are bfloat16."""
    logits = torch.tensor([[60.0, 0.0, 1.0], [20.0, 4.0, 3.0]], dtype=torch.bfloat16)

    found = predictions(
        torch.eye(2, dtype=torch.bfloat16), head_of(logits).bfloat16(), torch.tensor([0, 0])
    )

    assert found.variance.dtype == torch.float32
    assert (found.variance >= 0).all()
    exact = logits.double().log_softmax(-1)
    shares = exact.exp()
    mean = (shares * exact).sum(-1, keepdim=True)
    assert torch.allclose(
        found.variance.double(), (shares * (exact - mean) ** 2).sum(-1), rtol=1e-4
    )
