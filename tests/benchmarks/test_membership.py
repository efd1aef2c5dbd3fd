"""Membership inference, beside a plain implementation on full logits and numbers by hand."""

from __future__ import annotations

import zlib
from math import log, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from seuf.benchmarks.membership import (
    ATTACKS,
    Predictions,
    Sample,
    area_under_curve,
    predict,
    score_passages,
)
from seuf.benchmarks.records import Group, Passage
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe import loss
from tests.benchmarks.conftest import KNOWN, WRONG, prompt

SCORE = st.integers(-3, 3).map(float)  # few values: many ties
SETTINGS = ScoringSettings(max_length=64, batch_size=3)
TEXTS: dict[Group, list[str]] = {
    "forget": ["Oslo lives by the sea", "black as coal, deep as a mine", "Rome"],
    "retain": ["a deep green sea of grass that nobody has seen", "who lives in a den? foxes"],
    "holdout": ["xyzzy 12 plugh 34", "bees, bees and more bees", "what?"],
}


def passages(*groups: Group) -> list[Passage]:
    """Return the passages of some groups, all by default."""
    return [
        Passage(text, g) for g, texts in TEXTS.items() if g in (groups or TEXTS) for text in texts
    ]


def by_hand(model: Any, text: str, k: float) -> dict[str, float]:
    """Return a passage's scores as eval_mia.py of RWKU has them, in float64 and all at once."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = model.model(ids).logits[0, :-1].double()
    values = logits.log_softmax(-1)
    tokens = values.gather(1, ids[0, 1:, None])[:, 0]
    shares = values.exp()
    mean = (shares * values).sum(-1)
    deviation = ((shares * values**2).sum(-1) - mean**2).sqrt()
    lowest = max(1, int(len(tokens) * k))
    loss = tokens.mean().item()
    return {
        "loss": loss,
        "zlib": loss / len(zlib.compress(bytes(text, "utf-8"))),
        "min_k": tokens.sort().values[:lowest].mean().item(),
        "min_k_plus_plus": ((tokens - mean) / deviation).sort().values[:lowest].mean().item(),
    }


@pytest.mark.parametrize("k", [0.2, 0.4, 1.0])
def test_scores_are_those_of_full_logits(language_model, k):
    settings = SETTINGS.model_copy(update={"min_k": k})

    scores = score_passages(language_model, passages(), settings)

    assert scores["min_k"] == k
    for group, texts in TEXTS.items():
        expected = [by_hand(language_model, text, k) for text in texts]
        found = scores["groups"][group]
        assert (found["passages"], found["cut"]) == (len(texts), 0)
        for attack in ATTACKS:
            mean = sum(one[attack] for one in expected) / len(expected)
            assert found[attack]["value"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_scores_are_the_same_whatever_the_batch_size(language_model, batch_size):
    whole = score_passages(language_model, passages(), SETTINGS)

    settings = SETTINGS.model_copy(update={"batch_size": batch_size})
    found = score_passages(language_model, passages(), settings)

    assert found["auc"] == whole["auc"]
    for group in TEXTS:
        for attack in ATTACKS:
            value = whole["groups"][group][attack]["value"]
            assert found["groups"][group][attack]["value"] == pytest.approx(value, rel=1e-5)


def test_scores_of_four_tokens_by_hand():
    """The mean is -10/4; of four tokens the lowest half are -4 and -3. Standardised they are
    (-1 + 2) / 1, (-2 + 2) / 1, (-3 + 2) / 0.5 and (-4 + 2) / 2: the lowest two are -2 and -1.
    """
    found = Predictions(
        torch.tensor([-1.0, -2.0, -3.0, -4.0]),
        torch.full((4,), -2.0),
        torch.tensor([1.0, 1.0, 0.25, 4.0]),
    )
    sample = Sample("forget", "aaaa", [0, 1, 2, 3, 4], cut=False)

    scores = {name: attack(sample, found, 0.5) for name, attack in ATTACKS.items()}

    assert scores == {
        "loss": -2.5,
        "zlib": -2.5 / len(zlib.compress(b"aaaa")),
        "min_k": -3.5,
        "min_k_plus_plus": -1.5,
    }


def test_the_lowest_share_has_one_token_at_least():
    """A fifth of four tokens is less than one, where RWKU's score is no number."""
    found = Predictions(torch.tensor([-1.0, -7.0]), torch.zeros(2), torch.ones(2))

    assert ATTACKS["min_k"](Sample("forget", "", [], False), found, 0.2) == -7


def test_a_certain_prediction_is_not_divided_by_nothing():
    """A variance of 0 counts as 1e-6, and so does one that is smaller."""
    found = Predictions(torch.tensor([log(0.5)]), torch.tensor([0.0]), torch.tensor([0.0]))

    score = ATTACKS["min_k_plus_plus"](Sample("forget", "", [], False), found, 1.0)

    assert score == pytest.approx(log(0.5) / 1e-3)


def test_a_long_passage_is_cut_and_counted(language_model):
    long = "Oslo lives by the sea, black as coal, deep as a mine"
    ids = language_model.tokenizer(long)["input_ids"]
    settings = SETTINGS.model_copy(update={"max_length": 6})

    found = score_passages(language_model, [Passage(long, "forget")], settings)["groups"]["forget"]

    read = language_model.tokenizer.decode(ids[:6])
    expected = by_hand(language_model, read, 0.2)
    assert language_model.tokenizer(read)["input_ids"] == ids[:6] != ids
    assert (found["passages"], found["cut"]) == (1, 1)
    for attack in ATTACKS:
        assert found[attack] == {
            "value": pytest.approx(expected[attack], rel=1e-4),
            "standard_error": 0.0,
        }


def test_a_passage_of_one_token_predicts_nothing_and_is_left_out(language_model):
    (one,) = [t for t in "abc" if len(language_model.tokenizer(t)["input_ids"]) == 1][:1]

    scores = score_passages(language_model, [Passage(one, "retain"), *passages("forget")], SETTINGS)

    assert set(scores["groups"]) == {"forget"}
    assert scores["groups"]["forget"]["passages"] == 3


def test_passages_of_a_broken_model_are_no_numbers_and_are_left_out(language_model):
    head = language_model.model.get_output_embeddings()
    with torch.no_grad():
        head.weight.fill_(float("nan"))

    assert score_passages(language_model, passages(), SETTINGS) == {
        "min_k": 0.2,
        "groups": {},
        "auc": {},
    }


def test_more_tokens_than_the_model_has_positions_are_refused(language_model):
    settings = SETTINGS.model_copy(update={"max_length": 100})
    long = Passage("Oslo lives by the sea. " * 30, "forget")

    with pytest.raises(InputError, match=r"64 positions.*set evaluation\.max_length to 64 or less"):
        score_passages(language_model, [long], settings)


def test_groups_are_told_apart_where_both_are_there(language_model):
    both = score_passages(language_model, passages(), SETTINGS)
    one = score_passages(language_model, passages("forget", "retain"), SETTINGS)
    none = score_passages(language_model, passages("retain", "holdout"), SETTINGS)

    assert set(both["auc"]) == {"holdout", "retain"}
    assert one["auc"] == {"retain": both["auc"]["retain"]}
    assert none["auc"] == {}
    for attack in ATTACKS:
        members, others = (
            [by_hand(language_model, text, 0.2)[attack] for text in TEXTS[group]]
            for group in ("forget", "holdout")
        )
        above = sum(m > o for m in members for o in others)
        assert both["auc"]["holdout"][attack]["value"] == pytest.approx(above / 9)


def test_what_was_learned_looks_better_known_than_what_was_not(knowing_model):
    """The model has learned four sentences; others of their words are the holdout."""
    known = [Passage(f"{prompt(q)} {answer}", "forget") for q, answer in KNOWN.items()]
    unknown = [Passage(f"{prompt(q)} {w}", "holdout") for q in KNOWN for w in WRONG[:2]]

    scores = score_passages(knowing_model, known + unknown, SETTINGS)

    for attack in ATTACKS:
        assert scores["auc"]["holdout"][attack]["value"] > 0.9


def test_an_area_under_the_curve_by_hand():
    """Of six pairs 3 > 2, 3 > 1, 3 > 0, 1 > 0 are in order and 1 = 1 is a tie: 4.5 / 6. Members are
    above 1 and 1/2 of the others, with variance 1/8; above the others are 1/2, 3/4, 1 of the
    members, with variance 1/16: the error is the root of 1/16 + 1/48.
    """
    area = area_under_curve([3.0, 1.0], [2.0, 1.0, 0.0])

    assert area["value"] == pytest.approx(0.75)
    assert area["standard_error"] == pytest.approx(sqrt(1 / 16 + 1 / 48))


@given(st.lists(SCORE, min_size=1, max_size=9), st.lists(SCORE, min_size=1, max_size=9))
def test_the_area_is_the_share_of_pairs_in_order_with_ties_by_half(members, others):
    pairs = [(member > other) + (member == other) / 2 for member in members for other in others]

    value = area_under_curve(members, others)["value"]

    assert value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert value == pytest.approx(1 - area_under_curve(others, members)["value"], abs=1e-12)


def test_members_that_all_score_higher_have_an_area_of_one():
    assert area_under_curve([3.0, 4.0], [1.0, 2.0]) == {"value": 1.0, "standard_error": 0.0}
    assert area_under_curve([1.0, 2.0], [3.0, 4.0])["value"] == 0.0


def test_scores_that_are_all_alike_have_an_area_of_one_half():
    """Every pair is a tie; the same for one member beside many others, which has no variance."""
    for members, others in (([1.0, 1.0], [1.0] * 3), ([1.0], [1.0] * 4)):
        assert area_under_curve(members, others) == {"value": 0.5, "standard_error": 0.0}


def head_of(logits: torch.Tensor) -> nn.Linear:
    """Return a head that makes the rows (n, V) of the hidden states of `torch.eye(n)`."""
    head = nn.Linear(len(logits), logits.shape[1], bias=False)
    with torch.no_grad():
        head.weight.copy_(logits.T)
    return head


def test_a_vocabulary_of_two_by_hand():
    """Shares 3/4 and 1/4. Mean: 3/4 log(3/4) + 1/4 log(1/4) = log(1/4) + 3/4 log 3. The two values
    are log 3 apart, so the variance is 3/16 (log 3)^2. With equal shares it is 0.
    """
    logits = torch.tensor([[log(3), 0.0], [5.0, 5.0]])

    found = predict(torch.eye(2), head_of(logits), torch.tensor([1, 0]))

    assert found.actual.tolist() == pytest.approx([log(1 / 4), log(1 / 2)])
    assert found.mean.tolist() == pytest.approx([log(1 / 4) + 3 / 4 * log(3), log(1 / 2)])
    assert found.variance.tolist() == pytest.approx([3 / 16 * log(3) ** 2, 0], abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_a_few_rows_at_a_time_give_the_same(rows, monkeypatch):
    torch.manual_seed(0)
    hidden, tokens = torch.randn(7, 5), torch.arange(7)
    head = nn.Linear(5, 11, bias=False)
    whole = predict(hidden, head, tokens)
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 11 * rows)
    sizes: list[int] = []
    head.register_forward_hook(lambda _, given, made: sizes.append(len(made)))

    found = predict(hidden, head, tokens)

    assert max(sizes) == min(rows, 7)
    for values, expected in zip(found, whole, strict=True):
        assert torch.allclose(values, expected, atol=1e-6)


def test_a_certain_model_has_no_negative_variance():
    """Mean of squares less square of the mean would be lost in rounding; logits are bfloat16."""
    logits = torch.tensor([[60.0, 0.0, 1.0], [20.0, 4.0, 3.0]], dtype=torch.bfloat16)

    found = predict(
        torch.eye(2, dtype=torch.bfloat16), head_of(logits).bfloat16(), torch.tensor([0, 0])
    )

    assert found.variance.dtype == torch.float32
    assert (found.variance >= 0).all()
    exact = logits.double().log_softmax(-1)
    shares = exact.exp()
    mean = (shares * exact).sum(-1, keepdim=True)
    assert torch.allclose(
        found.variance.double(), (shares * (exact - mean) ** 2).sum(-1), rtol=1e-4
    )


def test_a_token_that_is_never_predicted_counts_for_nothing():
    """Shares 3/4, 1/4 and 0: the mean and the variance are those of two tokens."""
    logits = torch.tensor([[log(3), 0.0, -torch.inf]])

    found = predict(torch.eye(1), head_of(logits), torch.tensor([0]))

    assert found.actual.tolist() == pytest.approx([log(3 / 4)])
    assert found.mean.tolist() == pytest.approx([log(1 / 4) + 3 / 4 * log(3)])
    assert found.variance.tolist() == pytest.approx([3 / 16 * log(3) ** 2])
