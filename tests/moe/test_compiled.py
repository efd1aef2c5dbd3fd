"""A compiled model gives what it gave, and its routers are still heard."""

import torch

from seuf.moe.architectures import decoder, moe_layers
from seuf.moe.batches import by_length
from seuf.moe.experts import ExpertSlice
from seuf.moe.forward import compile_pieces
from seuf.moe.routing import capture_routing
from tests.tiny import tiny_inputs, tiny_model, tiny_samples


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
