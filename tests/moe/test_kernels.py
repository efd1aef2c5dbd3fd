"""The loss and its gradient of the logits, in torch and on a GPU."""

import pytest
import torch
import torch.nn.functional as F

from seuf.moe import loss as kernels
from seuf.moe.loss import nll_and_gradient


def test_by_hand():
    """Probabilities .1 .2 .7 and target 1: the loss is -log .2, the gradient .1 -.8 .7."""
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log()

    nll, gradient = nll_and_gradient(logits, torch.tensor([1]))

    torch.testing.assert_close(nll, -torch.tensor([0.2]).log())
    torch.testing.assert_close(gradient, torch.tensor([[0.1, -0.8, 0.7]]))


def test_the_logits_stay_what_they_were():
    logits = torch.randn(4, 7)
    before = logits.clone()

    nll_and_gradient(logits, torch.zeros(4, dtype=torch.long))

    assert torch.equal(logits, before)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 97, 4096, 4097, 151936])
def test_the_kernel_gives_what_torch_gives_in_float64(dtype, vocabulary):
    """Values to float32, gradients to the type of the logits; a large range and one far below."""
    generator = torch.Generator("cuda").manual_seed(vocabulary)
    logits = 8 * torch.randn(33, vocabulary, device="cuda", generator=generator)
    logits[0] -= 100
    logits, targets = logits.to(dtype), torch.arange(33, device="cuda") % vocabulary
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), exact)

    assert kernels._kernel() is not None
    nll, gradient = nll_and_gradient(logits, targets)

    assert nll.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=1e-5)
    tolerance = 1e-4 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gradient.double(), slope, rtol=tolerance, atol=1e-6)
