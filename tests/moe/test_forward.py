"""Layers that are not needed do not run, and compiled or not the rest is what the model gives."""

from __future__ import annotations

import pytest
import torch

from seuf.inputs import InputError
from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import Batch, by_length
from seuf.moe.experts import ExpertSlice
from seuf.moe.forward import (
    compile_pieces,
    frozen_prefix,
    hidden_before,
    hidden_before_each,
    stop_after,
)
from seuf.moe.loss import batch_nll
from seuf.moe.routing import capture_routing
from tests.tiny import (
    bits,
    changed_names,
    hook_count,
    tiny_batch,
    tiny_inputs,
    tiny_model,
    tiny_samples,
)

CPU = torch.device("cpu")


def left(batch: Batch) -> Batch:
    """Return the batch turned round: padded on the left."""
    return Batch(*(tensor.flip(1) for tensor in batch[:2]))


def layers_that_run(model):
    """Return a list that grows with the index of each decoder layer that computes something."""
    ran = []
    for index, layer in enumerate(decoder(model).layers):
        inner = next(child for child in layer.children())
        inner.register_forward_pre_hook(lambda module, args, index=index: ran.append(index))
    return ran


def test_with_a_frozen_prefix_gradients_are_the_same_to_the_bit(model):
    batch, last = tiny_batch(), len(decoder(model).layers) - 1
    above = [p for p in decoder(model).layers[last].parameters() if p.requires_grad]

    def gradients() -> tuple[torch.Tensor, ...]:
        nll, mask = batch_nll(model, batch)
        return torch.autograd.grad(nll[mask].mean(), above, materialize_grads=True)

    whole = gradients()
    with frozen_prefix(model, last, hidden_before(model, last, batch.input_ids)):
        part = gradients()

    assert all(torch.equal(one, other) for one, other in zip(whole, part, strict=True))
    assert any(gradient.norm() > 0 for gradient in part)


@torch.no_grad()
def test_neither_what_is_below_the_prefix_nor_above_the_end_runs(model):
    batch, last = tiny_batch(), len(decoder(model).layers) - 1
    hidden = hidden_before(model, last, batch.input_ids)
    ran = layers_that_run(model)

    with stop_after(model, last), frozen_prefix(model, last, hidden):
        decoder(model)(**batch.inputs(CPU), use_cache=False)
    assert ran == [last]

    ran.clear()
    with stop_after(model, 0):
        decoder(model)(**batch.inputs(CPU), use_cache=False)
    assert ran == [0]


@torch.no_grad()
def test_what_leaves_a_layer_is_what_transformers_gives_out(model):
    """`hidden_states` starts with the embeddings; its last entry has passed the final norm."""
    batch = tiny_batch()
    inputs = batch.inputs(CPU)
    expected = decoder(model)(**inputs, output_hidden_states=True, use_cache=False).hidden_states

    for index in range(len(expected) - 2):
        with stop_after(model, index) as reached:
            decoder(model)(**inputs, use_cache=False)
        assert torch.equal(reached.hidden, expected[index + 1])
        assert torch.equal(hidden_before(model, index + 1, batch.input_ids), expected[index + 1])


def test_gradients_reach_the_layers_below_the_end_only(model):
    with stop_after(model, 0) as reached:
        decoder(model)(**tiny_batch().inputs(CPU), use_cache=False)
    reached.hidden.square().mean().backward()

    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert any(".layers.0." in name for name in with_gradient)
    assert not any(".layers.1." in name for name in with_gradient)


def test_a_nested_end_does_not_end_what_is_around_it(model):
    after = []

    with stop_after(model, 1) as outer:
        with stop_after(model, 0) as inner:
            decoder(model)(**tiny_batch().inputs(CPU), use_cache=False)
        after.append(inner.hidden)
        decoder(model)(**tiny_batch().inputs(CPU), use_cache=False)

    assert len(after) == 1
    assert outer.hidden.shape == inner.hidden.shape


@pytest.mark.parametrize("error", [False, True])
def test_the_model_is_left_as_it_was(model, error):
    hooks, before = hook_count(model), bits(model)
    hidden = hidden_before(model, 1, tiny_batch().input_ids)
    forwards = [layer.forward for layer in decoder(model).layers]

    try:
        with frozen_prefix(model, 1, hidden), stop_after(model, 1):
            if error:
                raise ZeroDivisionError
            decoder(model)(**tiny_batch().inputs(CPU), use_cache=False)
    except ZeroDivisionError:
        assert error

    assert hook_count(model) == hooks
    assert [layer.forward for layer in decoder(model).layers] == forwards
    assert all("forward" not in vars(layer) for layer in decoder(model).layers)
    assert changed_names(model, before) == set()


@pytest.mark.parametrize("context", [stop_after, lambda m, i: frozen_prefix(m, i, torch.zeros(1))])
def test_a_layer_that_is_not_there_is_refused(model, context):
    with pytest.raises(InputError, match="there is no layer 7"), context(model, 7):
        pass


def compiled(model, monkeypatch):
    """Return the model with its pieces traced, but not translated, which takes a compiler."""
    inner = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: inner(f, **options, backend="eager"))
    compile_pieces(model)
    return model


def test_outputs_routing_and_gradients_are_those_of_the_model(monkeypatch):
    plain = tiny_model("qwen2_moe").requires_grad_(False)
    model = compiled(tiny_model("qwen2_moe").requires_grad_(False), monkeypatch)
    results = []

    for one in (plain, model):
        routing = capture_routing(one, by_length(tiny_samples(), 3, 0))
        with ExpertSlice(moe_layers(one)[0].experts, 1) as part:
            logits = one(**tiny_inputs(), use_cache=False).logits
            logits.square().mean().backward()
        results.append([routing.affinity, logits, *(t.grad for t in part.parameters())])

    torch.testing.assert_close(*results)


def test_everything_but_routers_and_what_holds_one_is_compiled(monkeypatch):
    model = compiled(tiny_model("deepseek_v2"), monkeypatch)

    own = {name for name, module in model.named_modules() if "forward" in vars(module)}

    layers = len(decoder(model).layers)
    assert {f"model.layers.{index}.self_attn" for index in range(layers)} <= own
    assert {"model.layers.0.mlp", "model.layers.1.mlp.experts"} <= own
    assert {"model.layers.1.mlp.shared_experts", "model.layers.1.input_layernorm"} <= own
    assert not {"model.layers.1", "model.layers.1.mlp", "model.layers.1.mlp.gate"} & own


def test_what_enters_several_layers_is_what_enters_each(model):
    batch, layers = tiny_batch(), range(len(decoder(model).layers))

    together = hidden_before_each(model, layers, batch.input_ids)

    assert [*together] == [*layers]
    for layer, hidden in together.items():
        assert torch.equal(hidden, hidden_before(model, layer, batch.input_ids))
