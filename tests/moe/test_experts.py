"""One expert of a fused stack gets the gradients that its rows would get, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import MoELayer, moe_layers
from seuf.moe.batches import Batch
from seuf.moe.experts import ExpertSlice
from seuf.moe.loss import batch_nll
from tests.tiny import (
    EXPERTS,
    bits,
    changed_names,
    hook_count,
    inputs_of,
    tiny_batch,
    tiny_inputs,
    tiny_model,
)

TARGET, STEPS, RATE = 1, 20, 1e-3


@pytest.fixture(params=["eager", "grouped_mm"])
def every_model(request, model):
    """Each architecture with both ways of computing its experts."""
    model.set_experts_implementation(request.param)
    return model


def mean_nll(model: nn.Module, batch: Batch | None = None) -> Tensor:
    """Return the loss that the tests differentiate, from the model's own logits."""
    batch = batch or tiny_batch()
    logits = model(**inputs_of(batch), use_cache=False).logits.float()
    labels = batch.labels[:, 1:].flatten()
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels)


def full_gradients(model: nn.Module, batch: Batch | None = None) -> dict[str, Tensor]:
    """Return the gradient of every parameter, as transformers alone computes it."""
    model.requires_grad_(True)
    mean_nll(model, batch).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


def names_of(model: nn.Module, module: nn.Module) -> dict[str, str]:
    """Return the module's own parameter names and their names in the model."""
    prefix = next(name for name, other in model.named_modules() if other is module)
    return {name: f"{prefix}.{name}" for name, _ in module.named_parameters()}


def rows_of(model: nn.Module, experts: nn.Module, gradients: dict[str, Tensor], index: int):
    """Return the gradients of one expert's rows, by the experts' own names."""
    return {name: gradients[whole][index] for name, whole in names_of(model, experts).items()}


def test_the_forward_pass_is_unchanged_to_the_bit(every_model):
    every_model.requires_grad_(False)
    plain = every_model(**tiny_inputs(), use_cache=False).logits

    with ExpertSlice(moe_layers(every_model)[-1].experts, TARGET):
        treated = every_model(**tiny_inputs(), use_cache=False).logits

    assert treated.requires_grad
    assert torch.equal(plain, treated)


@pytest.mark.parametrize("position", [0, -1])
def test_gradients_are_those_of_the_rows_and_of_the_router(every_model, position):
    """Those of the rows to rounding; the router's, beside frozen fused tensors, to the bit."""
    layer = moe_layers(every_model)[position]
    full = full_gradients(every_model)

    every_model.requires_grad_(False)
    layer.router.requires_grad_(True)
    with ExpertSlice(layer.experts, TARGET) as part:
        mean_nll(every_model).backward()

    for name, expected in rows_of(every_model, layer.experts, full, TARGET).items():
        torch.testing.assert_close(part.tensors[name].grad, expected, rtol=1e-5, atol=1e-6)
    frozen = router_gradients_without_slice(every_model, layer.router)
    for name, parameter in layer.router.named_parameters():
        if parameter.grad is not None:
            whole = full[names_of(every_model, layer.router)[name]]
            assert torch.equal(parameter.grad, frozen[name])
            torch.testing.assert_close(parameter.grad, whole, rtol=1e-5, atol=1e-6)


def router_gradients_without_slice(model: nn.Module, router: nn.Module) -> dict[str, Tensor]:
    """Return the router's gradients when it alone is trained."""
    loss = mean_nll(model)
    names, parameters = zip(*router.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


def test_gradients_of_a_left_padded_batch_are_those_of_the_rows(model):
    left = Batch(*(tensor.flip(1) for tensor in tiny_batch()[:2]))
    layer = moe_layers(model)[-1]
    full = full_gradients(model, left)

    model.requires_grad_(False)
    with ExpertSlice(layer.experts, TARGET) as part:
        mean_nll(model, left).backward()

    for name, expected in rows_of(model, layer.experts, full, TARGET).items():
        torch.testing.assert_close(part.tensors[name].grad, expected, rtol=1e-5, atol=1e-6)


def test_a_bfloat16_model_gives_float32_masters_its_gradients(model):
    """To the coarseness of bfloat16, whose sums differ by 2^-8."""
    model.bfloat16()
    layer = moe_layers(model)[-1]
    full = full_gradients(model)

    model.requires_grad_(False)
    with ExpertSlice(layer.experts, TARGET) as part:
        plain = model(**tiny_inputs(), use_cache=False).logits
        mean_nll(model).backward()

    for name, expected in rows_of(model, layer.experts, full, TARGET).items():
        gradient = part.tensors[name].grad
        assert gradient.dtype == torch.float32
        assert (gradient - expected.float()).norm() <= 0.02 * expected.float().norm()
    assert torch.equal(plain, model(**tiny_inputs(), use_cache=False).logits)


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_of_a_master_reaches_the_model_before_its_next_pass(fused):
    """One step of AdamW, as anyone would write it; the slice needs no call of its own."""
    model = tiny_model("mixtral").bfloat16().requires_grad_(False)
    layer = moe_layers(model)[0]
    with ExpertSlice(layer.experts, TARGET) as part:
        optimizer = torch.optim.AdamW(part.parameters(), lr=0.1, fused=fused)
        before = mean_nll(model)
        before.backward()
        optimizer.step()

        after = mean_nll(model)

        assert after < before
    for name, master in part.tensors.items():
        assert torch.equal(layer.experts.get_parameter(name)[TARGET], master.bfloat16())


def test_the_last_update_is_in_the_model_after_the_context():
    model = tiny_model("mixtral").bfloat16()
    layer = moe_layers(model)[0]

    with ExpertSlice(layer.experts, TARGET) as part, torch.no_grad():
        part.tensors["down_proj"].fill_(7)

    assert (layer.experts.down_proj[TARGET] == 7).all()
    assert not (layer.experts.down_proj[0] == 7).any()


def test_updates_too_small_for_bfloat16_add_up_in_the_master():
    """1 + 2^-9 rounds to 1 in bfloat16, whose next number is 1 + 2^-7; four of them do not."""
    model = tiny_model("mixtral").bfloat16()
    part = ExpertSlice(moe_layers(model)[0].experts, TARGET)
    view, master = part.views["down_proj"], part.tensors["down_proj"]

    with torch.no_grad(), part:
        master.fill_(1)
        master.add_(2**-9)
        part.write_back()
        assert (view == 1).all()
        master.add_(3 * 2**-9)

    assert (view == 1 + 2**-7).all()


def test_no_other_parameter_gets_a_gradient(every_model):
    every_model.requires_grad_(False)

    with ExpertSlice(moe_layers(every_model)[0].experts, TARGET) as part:
        mean_nll(every_model).backward()

    assert all(parameter.grad is None for parameter in every_model.parameters())
    assert all(tensor.grad.norm() > 0 for tensor in part.parameters())


def test_two_experts_of_one_layer_can_be_trained_together(model):
    layer = moe_layers(model)[-1]
    full = full_gradients(model)

    model.requires_grad_(False)
    with ExpertSlice(layer.experts, 0) as first, ExpertSlice(layer.experts, 3) as second:
        mean_nll(model).backward()

    for part, index in ((first, 0), (second, 3)):
        for name, expected in rows_of(model, layer.experts, full, index).items():
            torch.testing.assert_close(part.tensors[name].grad, expected, rtol=1e-5, atol=1e-6)


def test_an_expert_above_sends_no_second_gradient_down(model):
    """Recomputing the upper layer's rows must not add to what the lower layer is told."""
    lower, upper = moe_layers(model)[0], moe_layers(model)[-1]
    full = full_gradients(model)

    model.requires_grad_(False)
    with ExpertSlice(lower.experts, TARGET) as part, ExpertSlice(upper.experts, 3):
        mean_nll(model).backward()

    for name, expected in rows_of(model, lower.experts, full, TARGET).items():
        torch.testing.assert_close(part.tensors[name].grad, expected, rtol=1e-5, atol=1e-6)


def test_computing_all_rows_gives_the_same_as_those_that_are_routed(model, monkeypatch):
    """A GPU takes the first way, where nothing need be counted; here it is forced to."""
    layer, gradients = moe_layers(model)[-1], []
    model.requires_grad_(False)

    def all_rows(self: ExpertSlice, chosen: Tensor, weights: Tensor) -> tuple[None, Tensor]:
        return None, (weights * (chosen == self.index)).sum(1)

    for _ in range(2):
        with ExpertSlice(layer.experts, TARGET) as part:
            mean_nll(model).backward()
        gradients.append([tensor.grad for tensor in part.parameters()])
        monkeypatch.setattr(ExpertSlice, "_routed_here", all_rows)

    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_an_expert_without_tokens_gets_a_gradient_of_zero(model):
    """One token goes to 2 of 4 experts; the others receive nothing."""
    layer, seen = moe_layers(model)[0], []
    handle = layer.experts.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    model(torch.tensor([[5]]), use_cache=False)
    handle.remove()
    idle = next(e for e in range(EXPERTS) if e not in seen[0])

    with torch.enable_grad(), ExpertSlice(layer.experts, idle) as part:
        model(torch.tensor([[5]]), use_cache=False).logits.sum().backward()

    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in part.parameters())


def test_a_float32_slice_is_the_models_own_storage(model):
    layer = moe_layers(model)[0]
    part = ExpertSlice(layer.experts, TARGET)

    with torch.no_grad():
        part.tensors["down_proj"].fill_(7)

    assert (layer.experts.down_proj[TARGET] == 7).all()
    assert not (layer.experts.down_proj[0] == 7).any()


def test_an_update_between_forward_and_backward_is_noticed(model):
    """A stale activation would give a wrong gradient in silence."""
    layer = moe_layers(model)[0]
    version = layer.experts.down_proj._version
    with ExpertSlice(layer.experts, TARGET) as part:
        loss = mean_nll(model)
        with torch.no_grad():
            part.tensors["down_proj"].mul_(2)

        assert layer.experts.down_proj._version == version + 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_gradients_survive_gradient_checkpointing():
    """Layers are then run a second time in the backward pass, hooks and all."""
    model = tiny_model("qwen2_moe").requires_grad_(False)
    layer, results = moe_layers(model)[0], []

    for checkpointing in (False, True):
        if checkpointing:
            model.train().gradient_checkpointing_enable({"use_reentrant": False})
            model.get_input_embeddings().weight.requires_grad_(True)
        with ExpertSlice(layer.experts, TARGET) as part:
            mean_nll(model).backward()
        results.append([tensor.grad for tensor in part.parameters()])

    torch.testing.assert_close(*results)


@pytest.mark.parametrize("index", [-1, EXPERTS])
def test_an_expert_out_of_range_is_refused(model, index):
    with pytest.raises(InputError, match=f"experts 0 to 3; there is no expert {index}"):
        ExpertSlice(moe_layers(model)[0].experts, index)


def test_hooks_are_gone_after_exit_and_after_an_exception(model):
    hooks, before = hook_count(model), bits(model)

    with ExpertSlice(moe_layers(model)[0].experts, TARGET):
        assert hook_count(model) == hooks + 2
    with pytest.raises(ZeroDivisionError), ExpertSlice(moe_layers(model)[0].experts, TARGET):
        _ = 1 / 0

    assert hook_count(model) == hooks
    assert changed_names(model, before) == set()


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_nothing_is_recomputed_without_gradients(model_type):
    """Under no_grad the layer's output passes through untouched, so scoring costs nothing more."""
    model = tiny_model(model_type)

    with torch.no_grad(), ExpertSlice(moe_layers(model)[0].experts, TARGET):
        logits = model(**tiny_inputs()).logits

    assert not logits.requires_grad


def step_nll(model: nn.Module, step: int) -> Tensor:
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
            step_nll(model, step).backward()
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
        step_nll(model, step).backward()
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
