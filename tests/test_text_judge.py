"""Unlearning that the texts themselves judge."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import seuf
from seuf.text_judge import produced, text_judge
from tests.tiny import tiny_language_model


class SaysTheNextNumber(nn.Module):
    """Gives token n + 1 after n three times the weight of each of the five others."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        logits = nn.functional.one_hot((input_ids + 1) % 6, 6) * math.log(3)
        return SimpleNamespace(logits=logits)


def test_the_second_half_is_judged_given_the_first():
    """Of 2 3 | 4 0 the 4 is right: log(8 / 3) nats, the 0 is wrong: log(8)."""
    share, nll = produced(SaysTheNextNumber(), [[2, 3, 4, 0]])

    assert share == 0.5
    assert nll == pytest.approx((math.log(8 / 3) + math.log(8)) / 2)


def test_chance_is_what_the_commonest_token_gives():
    """Of the halves 4 0 and 4 1 half are 4."""
    judged = text_judge([[2, 3, 4, 0], [1, 1, 4, 1]], [[0, 1, 2, 3]])(SaysTheNextNumber())

    assert judged.chance == 0.5
    assert judged.utility == 1.0


def test_no_judge_is_needed():
    base = tiny_language_model()
    forget, retain = [[5, 6, 7, 8, 9, 10]] * 4, [[20, 21, 22, 23]] * 4
    method = seuf.Method(scope="everything", objective="gdiff", learning_rates=[1e-3])
    settings = seuf.UnlearningSettings(steps=2, evaluate_every=1, batch_size=2)

    done = seuf.unlearn(base, forget, retain, method, [], settings=settings)

    assert done.delta.tensors
    assert [row["step"] for row in done.log] == [0, 1, 2]
