"""One expert of a fused stack gets the gradients that its rows would get, and nothing else does."""

import pytest
import torch
from torch import Tensor, nn

from seuf.errors import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.experts import ExpertSlice
from seuf.moe.loss import token_nll
from tests.tiny import EXPERTS, bits, changed_names, hook_count, tiny_batch

TARGET = 1


@pytest.fixture(params=["eager", "grouped_mm"])
def any_model(request, model):
    """Every architecture with both ways of computing its experts."""
    model.set_experts_implementation(request.param)
    return model


def mean_nll(model: nn.Module, seed: int = 0) -> Tensor:
    """Return the loss that the tests differentiate."""
    values, mask = token_nll(model, tiny_batch(seed=seed))
    return values[mask].mean()


def full_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradient of every parameter, as transformers alone computes it."""
    model.requires_grad_(True)
    mean_nll(model).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


def names_of(model: nn.Module, module: nn.Module) -> dict[str, str]:
    """Return the module's own parameter names and their names in the model."""
    prefix = next(name for name, other in model.named_modules() if other is module)
    return {name: f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}


def test_the_forward_pass_is_unchanged_to_the_bit(any_model):
    any_model.requires_grad_(False)
    plain = any_model(**tiny_batch()._asdict()).logits

    with ExpertSlice(moe_layers(any_model)[-1].experts, TARGET):
        treated = any_model(**tiny_batch()._asdict()).logits

    assert treated.requires_grad
    assert torch.equal(plain, treated)


@pytest.mark.parametrize("position", [0, 1])
def test_gradients_are_those_of_the_rows_and_of_the_router(any_model, position):
    """Those of the rows to rounding; the router's, beside frozen fused tensors, to the bit."""
    layer = moe_layers(any_model)[position]
    full = full_gradients(any_model)

    any_model.requires_grad_(False)
    layer.router.requires_grad_(True)
    with ExpertSlice(layer.experts, TARGET) as part:
        mean_nll(any_model).backward()

    for name, whole in names_of(any_model, layer.experts).items():
        torch.testing.assert_close(part.tensors[name].grad, full[whole][TARGET])
    frozen = router_gradients_without_slice(any_model, layer.router)
    for name, parameter in layer.router.named_parameters():
        assert torch.equal(parameter.grad, frozen[name])
        torch.testing.assert_close(parameter.grad, full[names_of(any_model, layer.router)[name]])


def router_gradients_without_slice(model: nn.Module, router: nn.Module) -> dict[str, Tensor]:
    """Return the router's gradients when it alone is trained."""
    loss = mean_nll(model)
    names, parameters = zip(*router.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_no_other_parameter_gets_a_gradient(any_model):
    any_model.requires_grad_(False)

    with ExpertSlice(moe_layers(any_model)[0].experts, TARGET) as part:
        mean_nll(any_model).backward()

    assert all(parameter.grad is None for parameter in any_model.parameters())
    assert all(tensor.grad.norm() > 0 for tensor in part.parameters())


def test_two_experts_of_one_layer_can_be_trained_together(any_model):
    layer = moe_layers(any_model)[-1]
    full = full_gradients(any_model)

    any_model.requires_grad_(False)
    with ExpertSlice(layer.experts, 0) as first, ExpertSlice(layer.experts, 3) as second:
        mean_nll(any_model).backward()

    for name, whole in names_of(any_model, layer.experts).items():
        torch.testing.assert_close(first.tensors[name].grad, full[whole][0])
        torch.testing.assert_close(second.tensors[name].grad, full[whole][3])


def test_an_expert_above_sends_no_second_gradient_down(any_model):
    """Recomputing the upper layer's rows must not add to what the lower layer is told."""
    lower, upper = moe_layers(any_model)
    full = full_gradients(any_model)

    any_model.requires_grad_(False)
    with ExpertSlice(lower.experts, TARGET) as part, ExpertSlice(upper.experts, 3):
        mean_nll(any_model).backward()

    for name, whole in names_of(any_model, lower.experts).items():
        torch.testing.assert_close(part.tensors[name].grad, full[whole][TARGET])


@torch.no_grad()
def test_an_expert_without_tokens_gets_a_gradient_of_zero(model):
    """One token goes to 2 of 4 experts; the others receive nothing."""
    layer, seen = moe_layers(model)[0], []
    handle = layer.experts.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    model(torch.tensor([[5]]))
    handle.remove()
    idle = next(e for e in range(EXPERTS) if e not in seen[0])

    with torch.enable_grad(), ExpertSlice(layer.experts, idle) as part:
        model(torch.tensor([[5]])).logits.sum().backward()

    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in part.parameters())


def test_the_slice_is_the_models_own_storage(model):
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


@pytest.mark.parametrize("index", [-1, EXPERTS])
def test_an_expert_out_of_range_is_refused(model, index):
    with pytest.raises(InputError, match=f"experts 0 to 3; there is no expert {index}"):
        ExpertSlice(moe_layers(model)[0].experts, index)


def test_hooks_are_gone_after_exit_and_after_an_exception(model):
    hooks, before = hook_count(model), bits(model)

    with ExpertSlice(moe_layers(model)[0].experts, TARGET):
        assert hook_count(model) == hooks + 1
    with pytest.raises(ZeroDivisionError), ExpertSlice(moe_layers(model)[0].experts, TARGET):
        _ = 1 / 0

    assert hook_count(model) == hooks
    assert changed_names(model, before) == set()


def test_nothing_is_recomputed_without_gradients(model):
    """Under no_grad the layer's output passes through untouched, so scoring costs nothing more."""
    layer = moe_layers(model)[0]

    with torch.no_grad(), ExpertSlice(layer.experts, TARGET):
        logits = model(**tiny_batch()._asdict()).logits

    assert not logits.requires_grad
