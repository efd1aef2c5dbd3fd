"""Tensors follow the device of those they meet: a device map spreads a model over several GPUs.

No GPU is needed: torch's fake tensors have a device and a shape, no memory, and refuse to be
computed with those of another device.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seuf.benchmarks.membership import predict
from seuf.moe import loss as loss_module
from seuf.moe.activations import HiddenStates
from seuf.moe.architectures import decoder_layer
from seuf.moe.loading import load
from seuf.moe.loss import next_token_nll, nll_and_gradient
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.objectives import OBJECTIVES
from tests.tiny import tiny_language_model
from tests.unlearning.runs import FORGET, RETAIN, SETTINGS, method, run

ONE, OTHER = torch.device("cpu"), torch.device("meta")  # stand for two GPUs


@pytest.fixture
def fake_tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(loss_module, "_kernel", lambda: None)
    with FakeTensorMode():
        yield


class HeadOn(nn.Module):
    """A head of 11 tokens to which accelerate brings what it is called with."""

    def __init__(self, device: torch.device, trained: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(11, 8, device=device), requires_grad=trained)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.to(self.weight.device) @ self.weight.t()


@pytest.mark.usefixtures("fake_tensors")
def test_tensors_of_two_gpus_are_refused_here():
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(2, device=ONE) + torch.empty(2, device=OTHER)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("head", [ONE, OTHER])
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.usefixtures("fake_tensors")
def test_losses_are_where_the_hidden_states_are(trained, head, rows, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", 4 * 11 * rows)
    hidden = torch.empty(2, 3, 8, device=OTHER, requires_grad=True)
    labels = torch.zeros(2, 3, dtype=torch.long, device=ONE)

    nll, mask = next_token_nll(hidden, HeadOn(head, trained), labels)
    nll.sum().backward()

    assert nll.device == mask.device == hidden.grad.device == OTHER
    assert nll.shape == mask.shape == (2, 2)


@pytest.mark.usefixtures("fake_tensors")
def test_predictions_are_made_where_the_head_is():
    """Its logits are too many to be moved."""
    hidden = torch.empty(3, 8, device=ONE)

    predictions = predict(hidden, HeadOn(OTHER, trained=False), torch.zeros(3, dtype=torch.long))

    assert {values.device for values in predictions} == {OTHER}


@pytest.mark.usefixtures("fake_tensors")
def test_hidden_states_go_back_to_where_they_came_from():
    """Input goes to the first GPU; the layer whose output RMU compares is on the other."""
    states = HiddenStates({0: 2, 1: 3}, 8, torch.float32, ONE)
    assert states.batch([0], 2).device == ONE

    states.put([0, 1], torch.empty(2, 3, 8, device=OTHER))

    assert states.batch([1], 3).device == OTHER


def test_what_rmu_compares_is_where_the_steered_layer_is():
    """Target, kept activations, counts and anchor follow what leaves the layer."""
    base, of = tiny_language_model(), method("experts", "rmu")
    base.model.set_experts_implementation("batched_mm")  # others read numbers, which fakes have not
    passes = ForwardPasses(base, FORGET, RETAIN, of, SETTINGS, 1, 1, 0, [(1, 2)])
    anchor, batch = Anchor(base.model, [(1, 2)], "softmax", of.anchor_target), passes.batch(0)
    decoder_layer(base.model, 1).register_forward_hook(lambda _, args, made: made.to(OTHER))

    with FakeTensorMode(allow_non_fake_inputs=True), anchor.watching(batch.forget_mask):
        inputs = passes.objective_inputs(batch)
        loss = OBJECTIVES["rmu"](**inputs, rmu_retain_weight=1.0)
        total = loss + anchor.loss(loss.device)

    assert total.device == inputs["steering"].device == OTHER
    assert inputs["retain_reference_hidden"].device == OTHER


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_kernel_runs_where_the_logits_are():
    """Triton takes the current GPU, which is the first."""
    logits = torch.randn(3, 97, device="cuda:1")

    nll, gradient = nll_and_gradient(logits, torch.arange(3, device="cuda:1"))

    assert nll.device == gradient.device == logits.device
    torch.testing.assert_close(nll, -logits.log_softmax(-1).diagonal())


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("experts", [[(1, 2)], [(0, 1), (1, 2)]])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_model_over_two_gpus_is_unlearned_as_on_the_cpu(
    language_model, tmp_path, objective, experts
):
    """The last layer is on the second GPU, and the head on the first again."""
    language_model.save(tmp_path)
    parts = ["embed_tokens", "rotary_emb", "layers.0", "layers.1", "norm"]
    device_map: dict[str, str | int] = {f"model.{p}": int(p in parts[3:]) for p in parts}
    spread = load(str(tmp_path), device_map={**device_map, "lm_head": 0})
    on_cpu = load(str(tmp_path), device="cpu")

    one, other = (run(m, method("experts", objective), experts=experts) for m in (spread, on_cpu))

    assert [row["loss"] for row in one.log] == pytest.approx(
        [row["loss"] for row in other.log], rel=1e-4, abs=1e-4, nan_ok=True
    )
    with one.delta.applied_to(spread.model):
        pass
