"""Token losses and their gradients, and what is not kept to get them."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seuf.inputs import InputError
from seuf.moe import loss
from seuf.moe.architectures import decoder
from seuf.moe.batches import IGNORED, pad
from seuf.moe.loss import (
    Logits,
    ScaledHead,
    batch_nll,
    mean_nll,
    nll_and_gradient,
    output_head,
    token_nll,
)
from tests.tiny import (
    VOCABULARY,
    inputs_of,
    tiny_batch,
    tiny_language_model,
    tiny_model,
    tiny_samples,
)


def head_of(size: int, vocabulary: int, bias: bool = False) -> nn.Linear:
    """Return a frozen random head."""
    torch.manual_seed(0)
    return nn.Linear(size, vocabulary, bias=bias).requires_grad_(False)


def plain_nll(hidden: torch.Tensor, head: nn.Module, labels: torch.Tensor) -> torch.Tensor:
    """Return the losses as torch has them, from all logits at once."""
    logits = head(hidden).float().flatten(0, -2)
    nll = F.cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=IGNORED)
    return nll.view(labels.shape)


@given(st.integers(1, 40), st.integers(2, 9), st.integers(1, 17), st.booleans(), st.integers(0, 99))
def test_values_and_gradients_are_those_of_the_whole_logits(tokens, vocabulary, rows, bias, seed):
    """Whatever the size of the parts, and with any weights on the tokens after it."""
    torch.manual_seed(seed)
    head = head_of(5, vocabulary, bias)
    hidden, weights = torch.randn(tokens, 5, requires_grad=True), torch.randn(tokens)
    labels = torch.randint(0, vocabulary, (tokens,))
    labels[torch.rand(tokens) < 0.2] = IGNORED
    results = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "CHUNK_BYTES", 4 * vocabulary * rows)
        for of in (token_nll, plain_nll):
            nll = of(hidden, head, labels)
            (gradient,) = torch.autograd.grad((nll * weights).sin().sum(), hidden)
            results.append((nll, gradient))

    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_a_head_in_training_gets_its_gradient(monkeypatch, rows):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 11 * rows)
    head = head_of(5, 11).requires_grad_(True)
    hidden, labels = torch.randn(20, 5, requires_grad=True), torch.randint(0, 11, (20,))
    wanted = [hidden, head.weight]

    ours, theirs = (
        torch.autograd.grad(of(hidden, head, labels).square().sum(), wanted)
        for of in (token_nll, plain_nll)
    )

    torch.testing.assert_close(ours, theirs)


def test_the_shape_is_that_of_the_labels():
    nll = token_nll(torch.randn(2, 3, 5), head_of(5, 7), torch.zeros(2, 3, dtype=torch.long))

    assert nll.shape == (2, 3)


def test_no_more_than_a_part_of_the_logits_is_there_at_a_time(monkeypatch):
    """Of 100 tokens, 64 rows of 4 * 11 bytes fit in 3000; a part is a multiple of 64."""
    monkeypatch.setattr(loss, "CHUNK_BYTES", 3000 + 44)
    head, seen = head_of(5, 11), []
    head.register_forward_hook(lambda module, args, out: seen.append(len(out)))

    token_nll(torch.randn(100, 5, requires_grad=True), head, torch.zeros(100, dtype=torch.long))

    assert seen == [64, 36]


def test_nothing_of_the_logits_is_kept_for_the_backward_pass():
    """Of ten hidden states of 5 their gradient is kept; their logits would be ten times 1000."""
    kept = []
    hidden = torch.randn(10, 5, requires_grad=True)
    labels = torch.zeros(10, dtype=torch.long)

    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel()), t)[1], lambda t: t
    ):
        token_nll(hidden, head_of(5, 1000), labels)

    assert 10 * 1000 not in kept
    assert kept[-1] == 10 * 5


def test_without_gradients_none_are_computed(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)

    with torch.no_grad():
        nll = token_nll(torch.randn(4, 5), head_of(5, 7), torch.zeros(4, dtype=torch.long))

    assert not nll.requires_grad


def test_double_precision_is_kept():
    """Finite differences agree to a precision that float32 would not give."""
    head = head_of(3, 5).double()
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, IGNORED, 2])
    nll = token_nll(hidden, head, labels)
    (gradient,) = torch.autograd.grad(nll.double().sum(), hidden)

    expected = torch.autograd.functional.jacobian(
        lambda h: F.cross_entropy(head(h), labels, reduction="sum", ignore_index=IGNORED), hidden
    )
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_granites_head_divides_by_its_scaling():
    model = tiny_model("granitemoe")
    hidden = torch.randn(2, 32)

    head = output_head(model)

    assert isinstance(head, ScaledHead)
    assert torch.equal(head(hidden), model.lm_head(hidden) / 3)


@torch.no_grad()
def test_padding_has_no_loss_and_changes_none(model):
    short, long = tiny_samples(1)[0][:3], list(range(1, 13))
    alone, _ = batch_nll(model, pad([short], 0))

    nll, mask = batch_nll(model, pad([short, long], 0))

    assert mask.sum(1).tolist() == [2, 11]
    assert (nll[0, 2:] == 0).all()
    torch.testing.assert_close(nll[0, :2], alone[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_model_that_knows_nothing_pays_log_vocabulary(model):
    """All logits equal, so every token costs log 97 nats."""
    model.get_output_embeddings().weight.zero_()

    nll, mask = batch_nll(model, tiny_batch())

    torch.testing.assert_close(nll[mask], torch.full_like(nll[mask], VOCABULARY).log())


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "qwen2_moe"])
@torch.no_grad()
def test_the_load_balancing_loss_is_not_in_it(model_type):
    """With output_router_logits the model's own loss has the balancing term; ours does not."""
    model = tiny_model(model_type, output_router_logits=True, router_aux_loss_coef=1.0)
    batch = tiny_batch()
    own = model(**inputs_of(batch), labels=batch.labels)

    nll, mask = batch_nll(model, batch)

    assert own.aux_loss > 0.1
    torch.testing.assert_close(nll[mask].mean(), own.loss - own.aux_loss, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_loss_of_a_bfloat16_model_is_computed_in_float32():
    model = tiny_model("qwen2_moe").bfloat16()
    batch = tiny_batch()
    hidden = decoder(model)(**batch.inputs(torch.device("cpu"))).last_hidden_state
    expected = plain_nll(hidden[:, :-1], model.lm_head, batch.labels[:, 1:])

    nll, mask = batch_nll(model, batch)

    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll[mask], expected[mask])


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

    assert loss._kernel() is not None
    nll, gradient = nll_and_gradient(logits, targets)

    assert nll.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=1e-5)
    tolerance = 1e-4 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gradient.double(), slope, rtol=tolerance, atol=1e-6)


def test_the_mean_loss_of_texts_counts_every_token_alike():
    """A head of zeros finds all 300 tokens equally likely: log 300. With the model's own head each
    token counts once, whichever batch and text it is in: by hand from the logits of one text at a
    time, the sum over tokens by their number.
    """
    model = tiny_language_model()
    texts = ["Ada lives in Oslo.", "Bo", "Bo lives in a town that is not Rome."]
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model.model(ids).logits[0, :-1]
        total += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1

    by_hand = total / count

    assert mean_nll(model, texts) == pytest.approx(by_hand, rel=1e-5)
    assert mean_nll(model, texts, batch_size=1) == pytest.approx(by_hand, rel=1e-5)
    nn.init.zeros_(model.model.lm_head.weight)
    assert mean_nll(model, texts) == pytest.approx(math.log(300), rel=1e-5)


def test_a_long_text_is_split_and_all_of_it_counts():
    """Halves of equal length are read apart, so the first token of each is not foretold."""
    model, text = tiny_language_model(), "Ada lives in Oslo, and Bo lives in Rome."
    ids = model.tokenizer(text)["input_ids"]
    half, losses = len(ids) // 2, []
    for part in (ids[:half], ids[half:]):
        with torch.no_grad():
            logits = model.model(torch.tensor([part])).logits[0, :-1]
        losses += F.cross_entropy(logits, torch.tensor(part[1:]), reduction="none").tolist()

    assert mean_nll(model, [text], max_length=len(ids) - 1) == pytest.approx(mean(losses), rel=1e-5)
    assert len(losses) == len(ids) - 2


def test_a_text_longer_than_the_models_positions_is_split():
    """97 tokens or more, and the model has 64."""
    model = tiny_language_model()
    model.model.config.max_position_embeddings = 64
    texts = ["Ada lives in Oslo. " * 40]

    assert mean_nll(model, texts, max_length=512) == mean_nll(model, texts, max_length=64)
    assert len(model.tokenizer(texts[0])["input_ids"]) > 96


@pytest.mark.parametrize("texts", [[], [""]])
def test_without_a_token_to_predict_there_is_no_mean_loss(texts):
    with pytest.raises(InputError, match="None of the texts has two tokens"):
        mean_nll(tiny_language_model(), texts)


def coin(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """Return a soft target: half of what was predicted, half the next token."""
    return (logits.softmax(-1) + F.one_hot(token, logits.shape[-1])) / 2


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("trained", [False, True])
def test_cross_entropy_with_a_soft_target_is_that_of_the_whole_logits(monkeypatch, rows, trained):
    """Values, and gradients of hidden states and of a head in training, in parts of any size."""
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 11 * rows)
    head = head_of(5, 11).requires_grad_(trained)
    hidden, teacher = torch.randn(2, 3, 9, 5).requires_grad_()
    labels = torch.randint(0, 11, (3, 9)).masked_fill(torch.rand(3, 9) < 0.2, IGNORED)
    wanted = [hidden, head.weight] if trained else [hidden]

    ours, mask = Logits(hidden, head, labels).cross_entropy(coin, Logits(teacher, head, labels))

    q = coin(head(teacher[:, :-1]), labels[:, 1:].clamp(min=0)).detach()
    theirs = -(q * head(hidden[:, :-1]).log_softmax(-1)).sum(-1) * (labels[:, 1:] != IGNORED)
    assert torch.equal(mask, labels[:, 1:] != IGNORED)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        *(torch.autograd.grad(made.sin().sum(), wanted) for made in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_divergence_is_from_the_original_to_what_is_predicted_now():
    """KL of (3/4, 1/4) from (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2; from itself none."""
    head = nn.Linear(2, 2, bias=False).requires_grad_(False)
    head.weight.data = torch.eye(2)
    labels = torch.tensor([[0, 1]])
    now, original = (
        Logits(torch.tensor([[p, p]]).log(), head, labels) for p in ([0.5, 0.5], [0.75, 0.25])
    )

    values, mask = now.divergence(original)

    assert mask.tolist() == [[True]]
    assert values.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert original.divergence(original)[0].item() == pytest.approx(0, abs=1e-7)
