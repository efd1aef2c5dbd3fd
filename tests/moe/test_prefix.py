"""Activations of a layer, without the layers above it."""

import pytest
import torch

from seuf.moe.architectures import decoder
from seuf.moe.prefix import hidden_after
from tests.tiny import bits, changed_names, hook_count, tiny_batch


@torch.no_grad()
def test_hidden_states_are_those_transformers_gives_out(model):
    """`hidden_states` starts with the embeddings; its last entry has passed the final norm."""
    batch = tiny_batch()
    expected = decoder(model)(**batch._asdict(), output_hidden_states=True).hidden_states
    last = len(expected) - 2

    for index in range(last):
        assert torch.equal(hidden_after(model, index, batch), expected[index + 1])
    assert torch.equal(decoder(model).norm(hidden_after(model, last, batch)), expected[-1])


@torch.no_grad()
def test_no_layer_above_runs(model):
    ran = []
    handles = [
        layer.register_forward_pre_hook(lambda module, args, index=index: ran.append(index))
        for index, layer in enumerate(decoder(model).layers)
    ]

    hidden_after(model, 0, tiny_batch())

    for handle in handles:
        handle.remove()
    assert ran == [0]


def test_gradients_reach_the_layers_below_only(model):
    hidden_after(model, 0, tiny_batch()).square().mean().backward()

    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert any(".layers.0." in name for name in with_gradient)
    assert not any(".layers.1." in name for name in with_gradient)


def test_the_model_is_left_as_it_was(model):
    hooks, before = hook_count(model), bits(model)

    hidden_after(model, 0, tiny_batch())

    assert hook_count(model) == hooks
    assert changed_names(model, before) == set()


def test_a_layer_that_is_not_there_is_an_index_error(model):
    with pytest.raises(IndexError):
        hidden_after(model, 7, tiny_batch())
