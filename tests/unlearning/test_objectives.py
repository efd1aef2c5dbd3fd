"""The four objectives, each against numbers found by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seuf.unlearning.objectives import (
    OBJECTIVES,
    Hidden,
    TokenNLL,
    arguments_of,
    ga,
    gdiff,
    npo,
    rmu,
)

VALUES = st.floats(0, 20, allow_nan=False)


def nll(values: list[list[float]], kept: list[list[int]] | None = None) -> TokenNLL:
    """Return losses of which all count, or those marked 1."""
    losses = torch.tensor(values)
    mask = torch.ones_like(losses) if kept is None else torch.tensor(kept)
    return TokenNLL(losses, mask.bool())


def test_mean_is_over_tokens_and_sums_are_over_sequences():
    """Of 1 2 3 and 4 - -: the mean is 10/4, the sums 6 and 4."""
    losses = nll([[1.0, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]])

    assert losses.mean() == 2.5
    assert losses.sums().tolist() == [6, 4]


def test_ga_is_minus_the_mean_loss():
    """-(1 + 3) / 2; descending it raises the loss of every token by the same right."""
    losses = torch.tensor([[1.0, 3.0]], requires_grad=True)

    loss = ga(TokenNLL(losses, torch.ones(1, 2).bool()))
    loss.backward()

    assert loss == -2
    assert losses.grad.tolist() == [[-0.5, -0.5]]


def test_gdiff_adds_the_weighted_retain_loss():
    """-2 + 3 * 0.5."""
    assert gdiff(nll([[1.0, 3.0]]), nll([[0.5]]), retain_weight=3) == -0.5


def test_gdiff_without_retain_weight_is_ga():
    forget = nll([[1.0, 3.0]])

    assert gdiff(forget, nll([[7.0]]), retain_weight=0) == ga(forget)


def test_npo_of_an_unchanged_model_is_two_over_beta_log_two():
    """The log ratio is 0, so softplus(0) = log 2; the retain tokens add -log(1/4) each."""
    forget = nll([[1.0, 2.0], [3.0, 4.0]])
    retain = nll([[math.log(4), math.log(4)]])

    loss = npo(forget, torch.tensor([3.0, 7.0]), retain, npo_beta=0.1, retain_weight=1)

    assert loss.item() == pytest.approx(2 / 0.1 * math.log(2) + math.log(4))


def test_npo_sums_over_a_sequence_before_the_sigmoid():
    """Sums 3 and 5 against references 1 and 5: (softplus(-.5 * 2) + log 2) / 2 * 2 / .5."""
    forget = nll([[1.0, 2.0], [5.0, 9.0]], [[1, 1], [1, 0]])

    loss = npo(forget, torch.tensor([1.0, 5.0]), nll([[0.0]]), npo_beta=0.5, retain_weight=1)

    expected = 4 * (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert loss.item() == pytest.approx(expected)


def npo_weights(forget: TokenNLL) -> list[float]:
    """Return how NPO of beta .1 weighs each token, of a model that knew all by heart."""
    forget.values.requires_grad_()
    reference = torch.zeros_like(forget.sums())
    loss = npo(forget, reference, nll([[0.0]]), npo_beta=0.1, retain_weight=0)
    (gradient,) = torch.autograd.grad(loss, forget.values)
    return (-gradient).flatten().tolist()


def test_npo_weighs_each_of_five_texts_in_a_sample_as_if_it_stood_alone():
    """A text of 10 nats: 2 sigmoid(-.1 * 10) = 2 / (1 + e) = .538, a fifth of it in a mean of five.

    Their sum of 50 nats, taken for one text, would have 2 sigmoid(-5) = .0134: the five would
    hardly be forgotten further.
    """
    alone, together = nll([[10.0]]), nll([[10.0] * 5])
    told_apart = together._replace(texts=torch.eye(5).bool()[None])
    five_rows = nll([[10.0]] * 5)

    assert npo_weights(alone) == pytest.approx([0.5379], abs=1e-4)
    assert npo_weights(together) == pytest.approx([0.0134] * 5, abs=1e-4)
    assert npo_weights(told_apart) == pytest.approx([0.5379 / 5] * 5, abs=1e-4)
    assert npo_weights(told_apart) == npo_weights(five_rows)


def test_texts_that_are_not_there_do_not_count():
    """Two samples with room for two texts: 1 + 2 and 4; then 8 and none. The mean is 15 / 3."""
    texts = torch.zeros(2, 2, 3).bool()
    texts[0, 0, :2] = texts[0, 1, 2] = texts[1, 0, 0] = True
    losses = nll([[1.0, 2, 4], [8, 9, 9]], [[1, 1, 1], [1, 0, 0]])._replace(texts=texts)

    assert losses.sums().tolist() == [3, 4, 8, 0]
    assert losses.lengths().tolist() == [2, 1, 1, 0]
    assert losses.text_means().tolist() == [1.5, 4, 8, 0]
    assert losses.mean_over_texts(losses.sums()) == 5
    assert losses.mean() == 15 / 4


@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=2, max_size=2),
    st.lists(VALUES, min_size=2, max_size=2),
)
def test_the_gradient_of_npo_tends_to_that_of_ga_as_beta_falls(values, reference):
    """d/dr of -2/beta log sigmoid(beta r) is -2 sigmoid(-beta r), which tends to -1.

    So every token of 2 sequences gets -1/2, and under GA -1/6: 3 tokens a sequence times that.
    """
    gradients = []
    for objective in (
        lambda f: npo(f, torch.tensor(reference), nll([[0.0]]), npo_beta=1e-7, retain_weight=1),
        ga,
    ):
        losses = torch.tensor(values, requires_grad=True)
        objective(TokenNLL(losses, torch.ones(2, 3).bool())).backward()
        gradients.append(losses.grad)

    torch.testing.assert_close(gradients[0], torch.full((2, 3), -0.5))
    torch.testing.assert_close(gradients[0], 3 * gradients[1])


@given(st.floats(1, 50), st.floats(0.1, 1))
def test_npo_pushes_less_what_is_already_forgotten(ratio, beta):
    """The weight of a sequence is 2 sigmoid(-beta r): 1 at first, towards 0 with rising loss."""
    losses = torch.tensor([[ratio]], requires_grad=True)
    forget = TokenNLL(losses, torch.ones(1, 1).bool())

    npo(forget, torch.zeros(1), nll([[0.0]]), npo_beta=beta, retain_weight=1).backward()

    expected = -2 / (1 + math.exp(beta * ratio))
    assert losses.grad.item() == pytest.approx(expected, rel=1e-4)
    assert abs(losses.grad.item()) < 1


def test_rmu_is_a_mean_over_kept_tokens_and_width():
    """Forget: one kept token (1, 3) against target (1, 1): (0 + 4) / 2 = 2.

    Retain: kept tokens off by (2, 0) and (0, 0): 4 / 4 = 1, weighted by 10.
    """
    forget = Hidden(torch.tensor([[[1.0, 3.0], [50.0, 50.0]]]), torch.tensor([[True, False]]))
    retain = Hidden(torch.tensor([[[2.0, 0.0], [5.0, 5.0]]]), torch.tensor([[True, True]]))
    original = torch.tensor([[[0.0, 0.0], [5.0, 5.0]]])

    loss = rmu(forget, retain, original, torch.tensor([1.0, 1.0]), rmu_retain_weight=10)

    assert loss == 2 + 10 * 1


def test_arguments_are_read_from_the_signature():
    assert arguments_of("ga") == ({"forget_nll"}, set())
    assert arguments_of("gdiff") == ({"forget_nll", "retain_nll"}, {"retain_weight"})
    assert arguments_of("npo") == (
        {"forget_nll", "forget_reference_nll", "retain_nll"},
        {"npo_beta", "retain_weight"},
    )
    assert arguments_of("rmu") == (
        {"forget_hidden", "retain_hidden", "retain_reference_hidden", "steering"},
        {"rmu_retain_weight"},
    )


def test_a_fifth_objective_is_one_function_and_one_row(monkeypatch):
    def half(retain_nll: TokenNLL, *, retain_weight: float) -> torch.Tensor:
        return retain_weight / 2 * retain_nll.mean()

    monkeypatch.setitem(OBJECTIVES, "half", half)

    assert arguments_of("half") == ({"retain_nll"}, {"retain_weight"})
