"""The objectives, each against numbers found by hand, and some against their peer's formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seuf.moe.batches import IGNORED
from seuf.moe.loss import Logits
from seuf.unlearning.objectives import (
    OBJECTIVES,
    Counts,
    Hidden,
    Predictions,
    TokenNLL,
    arguments_of,
    ceu,
    dpo,
    ga,
    gdiff,
    inputs_of,
    npo,
    rmu,
    satimp,
    simnpo,
    undial,
    wga,
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


def test_parts_of_a_batch_add_up_to_its_means():
    """Of 1 2 3 and 4: (1 + 2 + 3) / 4 and 4 / 4 make the mean 2.5, where that of means is 3.

    Sums over texts are 6 and 4: 6 / 2 and 4 / 2 make their mean 5.
    """
    whole = Counts(torch.tensor(4), torch.tensor(2))
    parts = [nll([[1.0, 2, 3]])._replace(whole=whole), nll([[4.0]])._replace(whole=whole)]

    assert sum(part.mean() for part in parts) == 2.5
    assert sum(part.mean_over_texts(part.sums()) for part in parts) == 5


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


NOTHING = nll([[0.0]])
LOG2 = math.log(2)


def test_simnpo_of_tokens_told_by_a_coin_is_the_softplus_of_their_mean_loss():
    """A mean of log 2 a token, beta 1: -2 log sigmoid(log 2) = 2 log 1.5, times gamma .5.

    However many tokens there are: 2 in the first text, 1 in the second.
    """
    forget = nll([[LOG2, LOG2], [LOG2, 99.0]], [[1, 1], [1, 0]])

    loss = simnpo(forget, nll([[3.0]]), simnpo_beta=1.0, simnpo_gamma=0.5, retain_weight=2)

    assert loss.item() == pytest.approx(0.5 * 2 * math.log(1.5) + 2 * 3)


def test_the_margin_of_simnpo_is_taken_from_the_mean_loss():
    """Mean 3, margin 3: 2/beta log 2, beta 2."""
    loss = simnpo(
        nll([[2.0, 4.0]]),
        NOTHING,
        simnpo_beta=2.0,
        simnpo_delta=3.0,
        simnpo_gamma=1.0,
        retain_weight=1,
    )

    assert loss.item() == pytest.approx(LOG2)


def test_dpo_weighs_a_refusal_against_what_is_forgotten():
    """Forget sums rose by 3, refusals' fell by 1; beta .5: 2/.5 softplus(-.5 * 4), plus 2 * 3.

    With both as they were it is 2/beta log 2, like NPO.
    """
    forget, refusal = nll([[2.0, 4.0]]), nll([[1.0, 1.0]])
    references = torch.tensor([3.0]), torch.tensor([3.0])

    loss, at_first = (
        dpo(forget, one, refusal, other, nll([[3.0]]), dpo_beta=0.5, retain_weight=2)
        for one, other in (references, (forget.sums(), refusal.sums()))
    )

    assert loss.item() == pytest.approx(4 * math.log(1 + math.exp(-2)) + 6)
    assert at_first.item() == pytest.approx(4 * LOG2 + 6)


def test_wga_counts_a_token_by_its_probability():
    """Losses log 2 and log 4: -(log 2 / 2 + log 4 / 4) / 2 = -log 2 / 2.

    The weight is a constant to the gradient: -p / 2 for each token.
    """
    losses = torch.tensor([[LOG2, 2 * LOG2]], requires_grad=True)

    loss = wga(TokenNLL(losses, torch.ones(1, 2).bool()), NOTHING, retain_weight=1)
    loss.backward()

    assert loss.item() == pytest.approx(-LOG2 / 2)
    torch.testing.assert_close(losses.grad, torch.tensor([[-0.25, -0.125]]))


def test_wga_without_beta_is_ga():
    forget = nll([[1.0, 3.0]])

    assert wga(forget, NOTHING, wga_beta=0, retain_weight=1) == ga(forget)


def test_satimp_counts_a_token_most_where_it_is_known_but_not_saturated():
    """One token with p = 1/2, beta 2 and 1: weight 1/4 * 1/2; -log 2 / 8, times gamma 4.

    By default the weight p^5 (1 - p) has its maximum where 5 (1 - p) = p.
    """
    one = {"satimp_beta1": 2.0, "satimp_beta2": 1.0, "satimp_gamma": 4.0}
    losses = (-torch.linspace(0.01, 0.99, 99).log())[:, None].requires_grad_()

    loss = satimp(nll([[LOG2]]), NOTHING, **one, retain_weight=1)
    satimp(TokenNLL(losses, torch.ones(99, 1).bool()), NOTHING, retain_weight=1).backward()

    assert loss.item() == pytest.approx(-LOG2 / 2)
    assert losses.grad.argmin() == 82  # p = .83


def predictions(logits: torch.Tensor, labels: list[list[int]]) -> Predictions:
    """Return what predicts labels (B, T) with logits (B, T, V)."""
    head = nn.Linear(logits.shape[-1], logits.shape[-1], bias=False).requires_grad_(False)
    head.weight.data = torch.eye(logits.shape[-1])
    return Predictions(Logits(logits, head, torch.tensor(labels)))


def test_undial_is_the_cross_entropy_with_the_teacher_less_beta():
    """Teacher (1/2, 1/4, 1/4), beta log 2 at token 0: (1/4, 1/4, 1/4) / (3/4), a third each.

    The student predicts (1/2, 1/4, 1/4): (log 2 + log 4 + log 4) / 3. The second position has no
    next token; that of padding does not count.
    """
    probabilities = torch.tensor([[[0.5, 0.25, 0.25]] * 2, [[0.9, 0.05, 0.05]] * 2])
    own = predictions(probabilities.log(), [[1, 0], [0, IGNORED]])

    loss = undial(own, own, nll([[1.0]]), undial_beta=LOG2, retain_weight=2)

    assert loss.item() == pytest.approx(5 * LOG2 / 3 + 2)


def test_ceu_leaves_the_others_as_they_are_to_each_other():
    """Of (1/2, 3/8, 1/8) and token 0 the target is (0, 3/4, 1/4), which no gradient passes.

    The loss is -(3/4 log 3/8 + 1/4 log 1/8), its gradient p - q = (1/2, -3/8, -1/8).
    """
    logits = torch.tensor([[[0.5, 0.375, 0.125]] * 2]).log().requires_grad_()

    loss = ceu(predictions(logits, [[2, 0]]))
    loss.backward()

    assert loss.item() == pytest.approx(-(0.75 * math.log(0.375) + 0.25 * math.log(0.125)))
    torch.testing.assert_close(logits.grad[0, 0], torch.tensor([0.5, -0.375, -0.125]))
    assert not logits.grad[0, 1].any()


def test_ceu_passes_over_the_first_token_of_an_answer_but_not_of_a_text():
    """A question of two tokens before an answer of two: the first of these is 0 in the mean.

    Of a text of three tokens all that are predicted count: two.
    """
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))

    def parts(labels: list[int]) -> torch.Tensor:
        target = logits[0].scatter(1, torch.tensor(labels)[:, None], float("-inf")).softmax(-1)
        return -(target * logits[0].log_softmax(-1)).sum(-1)

    answer = ceu(predictions(logits, [[IGNORED, IGNORED, 3, 4]]))
    text = ceu(predictions(logits[:, :3], [[2, 3, 4]]))

    torch.testing.assert_close(answer, parts([0, 0, 4, 0])[2] / 2)
    torch.testing.assert_close(text, parts([3, 4, 0, 0])[:2].mean())


def test_what_follows_a_prompt_is_told_from_what_begins_a_text():
    """Two texts of three tokens without a prompt, then one of two tokens after a prompt of three.

    The first of a text is predicted from nothing, so position 0 is its second: 1 1, - 1 1, - - - 1
    1. An answer at the very beginning of a sample, after a prompt of two: - 1 1.
    """
    packed = [[1, 1, 0, 1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]]
    losses = nll([[1.0] * 10] * 2, packed)

    assert losses.after_prompt().nonzero().tolist() == [[0, 8], [1, 1]]


def peers(name: str, logits: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return what open-unlearning d3d7cf9 minimises on forget, from its formulas."""
    loss = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")
    p = (-loss).exp().detach()
    hot = F.one_hot(y, logits.shape[-1])
    if name == "simnpo":
        return 0.125 * -2 / 4.5 * F.logsigmoid(4.5 * loss.mean(1)).mean()
    if name == "wga":
        return -(p * loss).mean()
    if name == "satimp":
        return 0.1 * -(p**5 * (1 - p) * loss).mean()
    target = (teacher - 10 * hot).softmax(-1)
    if name == "ceu":
        target = logits.detach().masked_fill(hot.bool(), float("-inf")).softmax(-1)
    return F.cross_entropy(logits.transpose(1, 2), target.transpose(1, 2))


@pytest.mark.parametrize("name", ["simnpo", "wga", "satimp", "undial", "ceu"])
def test_where_all_tokens_count_it_is_what_open_unlearning_minimises(name):
    """Its defaults; the value and the gradient of the logits."""
    generator = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(2, 3, 6, 11, generator=generator).requires_grad_()
    labels = torch.randint(11, (3, 6), generator=generator)
    own, original = (predictions(made, labels.tolist()) for made in (logits, teacher.detach()))
    shifted = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    inputs = {
        "forget_nll": TokenNLL(shifted, torch.ones_like(shifted).bool()),
        "forget_predictions": own,
        "forget_reference_predictions": original,
        "retain_loss": NOTHING,
        "retain_weight": 1.0,
    }

    ours = OBJECTIVES[name](
        **{n: v for n, v in inputs.items() if n in set().union(*arguments_of(name))}
    )
    theirs = peers(name, logits[:, :-1], teacher[:, :-1], labels[:, 1:])

    torch.testing.assert_close(ours, theirs)
    one, other = (
        torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)
    )
    torch.testing.assert_close(one, other)


def test_a_retain_loss_is_asked_for_by_its_parts():
    assert inputs_of("gdiff", "nll") == {"forget_nll", "retain_nll"}
    assert inputs_of("gdiff", "kl") == {
        "forget_nll",
        "retain_predictions",
        "retain_reference_predictions",
    }
    assert inputs_of("ga", "nll") == {"forget_nll"}


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
    assert arguments_of("gdiff") == ({"forget_nll", "retain_loss"}, {"retain_weight"})
    assert arguments_of("npo") == (
        {"forget_nll", "forget_reference_nll", "retain_loss"},
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
