"""Twenty steps on one expert and its router equal masked training of the whole layer."""

import pytest
import torch
from torch import Tensor, nn

from seuf.moe.architectures import MoELayer, moe_layers
from seuf.moe.experts import ExpertSlice
from seuf.moe.loss import batch_nll
from tests.tiny import EXPERTS, bits, changed_names, tiny_batch, tiny_model

TARGET, STEPS, RATE = 1, 20, 1e-3


def mean_nll(model: nn.Module, step: int) -> Tensor:
    """Return the loss of one of five batches."""
    values, mask = batch_nll(model, tiny_batch(4, seed=step % 5))
    return values[mask].mean()


def train_slice(model: nn.Module, layer: MoELayer, weight_decay: float = 0.0) -> None:
    """Train the target expert as a slice, and its router."""
    model.requires_grad_(False)
    layer.router.requires_grad_(True)
    with ExpertSlice(layer.experts, TARGET) as part:
        trained = [*part.parameters(), *layer.router.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=weight_decay)
        for step in range(STEPS):
            mean_nll(model, step).backward()
            optimizer.step()
            optimizer.zero_grad()


def train_masked(model: nn.Module, layer: MoELayer) -> None:
    """Train the whole layer with the gradient of the other experts set to zero."""
    model.requires_grad_(False)
    layer.router.requires_grad_(True)
    layer.experts.requires_grad_(True)
    trained = [*layer.experts.parameters(), *layer.router.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    for step in range(STEPS):
        mean_nll(model, step).backward()
        for parameter in layer.experts.parameters():
            target = parameter.grad[TARGET].clone()
            parameter.grad.zero_()
            parameter.grad[TARGET] = target
        optimizer.step()
        optimizer.zero_grad()


def test_training_the_slice_equals_masked_training_of_the_layer(model):
    other = tiny_model(model.config.model_type)

    train_slice(model, moe_layers(model)[-1])
    train_masked(other, moe_layers(other)[-1])

    for name, parameter in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_other_experts_do_not_move_a_bit(model, weight_decay):
    layer, before = moe_layers(model)[0], bits(model)

    train_slice(model, layer, weight_decay)

    fused = {
        n for n, p in model.named_parameters() if any(p is q for q in layer.experts.parameters())
    }
    routers = {
        n
        for n, p in model.named_parameters()
        if any(p is q for q in layer.router.parameters()) and len(p) == EXPERTS
    }
    assert changed_names(model, before) == fused | routers
    for name in fused:
        now, then = model.get_parameter(name), before[name]
        kept = [e for e in range(len(then)) if e != TARGET]
        assert torch.equal(now[kept], then[kept])
        assert not torch.equal(now[TARGET], then[TARGET])
