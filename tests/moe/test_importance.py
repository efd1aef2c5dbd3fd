"""What experts do with their tokens: by hand on a model of two experts, and by a second way."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.batches import Batch, by_length, pad
from seuf.moe.importance import gradient_sizes, weighted_norms
from tests.moe.test_routing import MixtralTopKRouter
from tests.tiny import (
    EIGHT,
    EXPERTS,
    bits,
    changed_names,
    hook_count,
    inputs_of,
    tiny_model,
    tiny_samples,
)


class TwoExperts(nn.Module):
    """Token t goes to expert t, which makes w_t of it; the logits are (w_t, 0)."""

    def __init__(self, weights: list[float], weight_of_router: float = 1.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="two_experts")
        self.choice = nn.Embedding.from_pretrained(torch.eye(2).mul(50))  # softmax: 1 and 0
        self.mlp = nn.Module()
        self.mlp.gate, self.mlp.experts = MixtralTopKRouter(), Product(weights)
        self.layers = [nn.ModuleList([self.mlp])]
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight = nn.Parameter(torch.tensor([[1.0], [0.0]]))
        self.weight_of_router = weight_of_router

    def get_decoder(self) -> nn.Module:
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.choice

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        _, weights, chosen = self.mlp.gate(self.choice(input_ids).flatten(0, 1))
        ones = torch.ones(input_ids.numel(), 1)
        hidden = self.mlp.experts(ones, chosen, weights * self.weight_of_router)
        return SimpleNamespace(last_hidden_state=hidden.view(*input_ids.shape, 1))


class Product(nn.Module):
    """Experts of one weight each, in the form that transformers keeps them in."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.ones(2, 1, 1))
        self.down_proj = nn.Parameter(torch.tensor(weights)[:, None, None])

    def _apply_gate(self, gate_up: Tensor) -> Tensor:
        return gate_up

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        up = self.gate_up_proj[chosen[:, 0], 0] * hidden
        return self.down_proj[chosen[:, 0], 0] * up * weights


def test_the_gradient_of_a_token_that_is_guessed_is_a_half():
    """At w = 0 both tokens have probability .5, and the NLL of token 0 falls by .5 a unit of w.

    In [0, 0] expert 0 predicts, in [1, 0] expert 1: each has the gradients -.5 and 0, whose root
    mean square is .5 / sqrt 2 = .3536. At w = 0 the up projection has no gradient.
    """
    model = TwoExperts([0.0, 0.0])

    sizes = gradient_sizes(model, [[0, 0], [1, 0]], padding=0)

    torch.testing.assert_close(sizes, torch.full((1, 2), 0.5 / 2**0.5).double())


def test_what_two_tokens_of_a_sample_ask_for_can_cancel():
    """[0, 0, 1]: expert 0 is to say 0 (-.5), then 1 (+.5), mean 0; in [0, 1] alone it is +.5."""
    model = TwoExperts([0.0, 0.0])

    assert gradient_sizes(model, [[0, 0, 1]], padding=0).tolist() == [[0.0, 0.0]]
    assert gradient_sizes(model, [[0, 1], [1]], padding=0).tolist() == [[0.5, 0.0]]


def test_the_weighted_norm_is_a_mean_over_the_tokens_that_came():
    """Outputs 3 and -4, given the weight .5: norms 1.5 and 2, however many tokens there were."""
    model = TwoExperts([3.0, -4.0], weight_of_router=0.5)

    norms = weighted_norms(model, [pad([[0, 1, 0], [0]], padding=1)])

    torch.testing.assert_close(norms, torch.tensor([[1.5, 2.0]]).double())


def test_an_expert_without_tokens_has_no_norm():
    """The padding alone goes to expert 1."""
    norms = weighted_norms(TwoExperts([3.0, -4.0]), [pad([[0, 0, 0], [0]], padding=1)])

    assert norms.tolist() == [[3.0, 0.0]]


@pytest.mark.parametrize("model_type", EIGHT)
def test_gradients_are_those_of_plain_autograd(model_type):
    model, samples = tiny_model(model_type), tiny_samples(3)
    layers = moe_layers(model)
    before, hooks = bits(model), hook_count(model)

    sizes = gradient_sizes(model, samples, padding=0)

    assert not changed_names(model, before)
    assert hook_count(model) == hooks
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    squares = torch.zeros(len(layers), EXPERTS).double()
    for sample in samples:
        ids = torch.tensor([sample])
        logits = model(ids, use_cache=False).logits[0, :-1]
        nn.functional.cross_entropy(logits.float(), ids[0, 1:]).backward()
        for position, layer in enumerate(layers):
            for parameter in layer.experts.parameters(recurse=False):
                squares[position] += parameter.grad.flatten(1).square().sum(1)
        model.zero_grad()
    torch.testing.assert_close(sizes, (squares / 3).sqrt(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model_type", EIGHT)
def test_weighted_norms_are_what_an_expert_alone_adds_to_the_layer(model_type):
    """The experts module is called once more for one token and one expert, with its own weight."""
    model, samples = tiny_model(model_type), tiny_samples(4)
    batches, layers = list(by_length(samples, 3, 0)), moe_layers(model)
    calls: list[tuple[int, tuple[Tensor, ...], Batch]] = []

    norms = weighted_norms(model, batches)

    for batch in batches:
        hooks = [
            layer.experts.register_forward_hook(
                lambda module, args, kwargs, out, position=position, batch=batch: calls.append(
                    (position, (*args, *kwargs.values())[:3], batch)
                ),
                with_kwargs=True,
            )
            for position, layer in enumerate(layers)
        ]
        with torch.no_grad():
            model(**inputs_of(batch), use_cache=False)
        for hook in hooks:
            hook.remove()
    found: dict[tuple[int, int], list[float]] = {}
    for position, (hidden, chosen, weights), batch in calls:
        for token in batch.attention_mask.flatten().nonzero().flatten().tolist():
            for slot, expert in enumerate(chosen[token].tolist()):
                with torch.no_grad():
                    alone = layers[position].experts(
                        hidden[token : token + 1],
                        chosen[token : token + 1, slot : slot + 1],
                        weights[token : token + 1, slot : slot + 1],
                    )
                found.setdefault((position, expert), []).append(alone.norm().item())
    expected = torch.zeros(len(layers), EXPERTS).double()
    for (position, expert), values in found.items():
        expected[position, expert] = sum(values) / len(values)
    torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-6)


def test_samples_of_one_token_alone_have_no_gradient():
    with pytest.raises(InputError, match="no sample of two tokens"):
        gradient_sizes(TwoExperts([0.0, 0.0]), [[0], [1]], padding=0)


def test_an_offloaded_model_is_refused():
    with torch.device("meta"):
        model = TwoExperts([0.0, 0.0])

    with pytest.raises(InputError, match=r"routing_capture.columns: 'gradient' needs all experts"):
        gradient_sizes(model, [[0, 0]], padding=0)
    with pytest.raises(InputError, match=r"routing_capture.columns: 'reap' needs all experts"):
        weighted_norms(model, [pad([[0, 0]], 0)])
