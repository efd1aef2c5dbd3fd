"""A mixture of experts distilled from its dense self, and taught new texts."""

from __future__ import annotations

import logging
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from seuf.inputs import InputError
from seuf.moe import distillation
from seuf.moe.batches import Sample, Span, pad
from seuf.moe.dense_samples import sample_texts
from seuf.moe.distillation import (
    Trainer,
    balance_loss,
    distil,
    rate_at,
    sample_dense,
    taught_batches,
    tell_if_hours,
)
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import mean_nll
from seuf.moe.settings import SamplingSettings, UpcyclingSettings
from seuf.moe.training import train_tokenizer
from seuf.moe.upcycling import upcycle
from tests.moe.test_upcycling import dense_model
from tests.tiny import bits, changed_names

TAUGHT = [f"{name} keeps bees in {town}." for name, town in zip("ABCDEF", "UVWXYZ", strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Any:
    """Return a folder with a dense model and its tokenizer."""
    path = tmp_path_factory.mktemp("dense")
    dense().save(path)
    return path


def dense() -> LanguageModel:
    """Return the dense model of the folder."""
    model = dense_model("llama", vocab_size=300, initializer_range=0.1)
    return LanguageModel(model, train_tokenizer(TAUGHT, 300))


def settings(folder: Any, **changes: Any) -> UpcyclingSettings:
    """Return a budget of seconds."""
    small = {
        "path": str(folder),
        "device": "cpu",
        "dtype": "float32",
        "experts": 8,
        "granularity": 2,
        "top_k": 2,
        "steps": 30,
        "batch_size": 2,
        "length": 16,
        "taught_batch_size": 3,
        "taught_length": 24,
        "learning_rate": 5e-3,
        "warmup": 3,
        "sampling": {"texts": 6, "apart": 2, "max_new_tokens": 8, "batch_size": 4},
    }
    return UpcyclingSettings(**{**small, **changes})


def test_balance_is_one_where_all_experts_get_as_much_and_more_where_all_choose_alike():
    """Four tokens, four experts, top 1. By turns f and the mean p are 1/4: 4 * (4 * 1/16) = 1. All
    on the first, where p is 1 in the limit: 4 * 1 * 1 = 4 = E / top_k.
    """
    by_turns, alike = torch.eye(4) * 100.0, torch.tensor([[100.0, 0, 0, 0]]).expand(4, 4)

    assert balance_loss([by_turns], top_k=1).item() == pytest.approx(1.0)
    assert balance_loss([alike], top_k=1).item() == pytest.approx(4.0)
    assert balance_loss([by_turns, alike], top_k=1).item() == pytest.approx(2.5)


def test_the_rate_rises_linearly_and_falls_by_half_a_cosine(folder):
    """At step 0 of warm-up 2 half of the peak; in the middle of 100 .05 + .95/2 = .525 of it."""
    budget = settings(folder, steps=100, warmup=2, learning_rate=1.0)

    assert rate_at(0, budget) == pytest.approx(0.5)
    assert rate_at(50, budget) == pytest.approx(0.525)
    assert rate_at(100, budget) == pytest.approx(0.05)


def test_taught_batches_hold_each_text_once_a_pass_and_texts_of_one_length():
    samples = [Sample([1] * n, [Span(0, 0, n)]) for n in range(1, 65)]

    batches = taught_batches(samples, size=4, padding=0, rng=random.Random(0))
    first = [next(batches) for _ in range(16)]

    lengths = [batch.attention_mask.sum(1).tolist() for batch in first]
    assert sorted(n for of_batch in lengths for n in of_batch) == list(range(1, 65))
    assert all(max(of_batch) - min(of_batch) == 3 for of_batch in lengths)


def test_an_update_has_the_gradient_of_the_losses_as_transformers_computes_them(
    folder, monkeypatch
):
    """KL and NLL from whole logits, balance from the model's own routers, in one plain sum; the
    gradients are scaled down to a norm of 1.
    """
    budget = settings(folder, redrawn=0.5, router_noise=1.0, balance_weight=0.3)
    teacher = dense()
    mixture = upcycle(teacher.model, budget, seed=0)
    general = pad([[5, 6, 7, 8], [9, 3, 2, 4]], 0)
    lesson = pad([[11, 12, 13], [14, 15]], 0)

    out, taught = (mixture(b.input_ids, output_router_logits=True) for b in (general, lesson))
    original = teacher.model(general.input_ids).logits[:, :-1].log_softmax(-1)
    kl = torch.nn.functional.kl_div(
        out.logits[:, :-1].log_softmax(-1), original, reduction="none", log_target=True
    )
    kl = kl.sum(-1).mean()
    nll = torch.nn.functional.cross_entropy(
        taught.logits[:, :-1].flatten(0, 1), lesson.labels[:, 1:].flatten(), ignore_index=-100
    )
    present = lesson.attention_mask.flatten().bool()
    routers = [
        torch.cat([a, b[present]])
        for a, b in zip(out.router_logits, taught.router_logits, strict=True)
    ]
    balance = balance_loss(routers, 2)
    (kl + nll + 0.3 * balance).backward()
    expected = [parameter.grad.clone() for parameter in mixture.parameters()]
    mixture.zero_grad()
    trainer = Trainer(LanguageModel(mixture, teacher.tokenizer), teacher, budget)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        trainer.optimizer, "step", lambda: seen.extend(m.grad.clone() for m in trainer.masters)
    )
    told = trainer.update(general, lesson, rate=1e-3)

    norm = torch.stack([gradient.norm() for gradient in expected]).norm().item()
    assert told.tolist() == pytest.approx([kl.item(), nll.item(), balance.item()], rel=1e-4)
    assert norm > 1
    for gradient, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(gradient, wanted / norm, rtol=1e-3, atol=1e-6)


def test_the_mixture_learns_what_it_is_taught_and_still_says_what_the_dense_model_says(folder):
    """Before: as likely as to the dense model, to within what was drawn anew."""
    budget = settings(folder, steps=60)
    shown, apart = sample_dense(budget)
    lessons = [(text, "sampled") for text in shown]

    model = distil(TAUGHT, lessons, budget, seed=0)

    untaught = LanguageModel(upcycle(dense().model, budget, seed=0), model.tokenizer)
    assert mean_nll(model, TAUGHT) < 0.6 * mean_nll(untaught, TAUGHT)
    assert mean_nll(model, apart) < mean_nll(untaught, apart) + 0.5
    assert not model.model.training
    assert model.source is None  # so its weights are written


def test_the_seed_decides_every_bit_and_checkpointing_none(folder):
    budget, lessons = settings(folder, steps=2), [("Ada likes Rome and tea.", "kept")]
    first = distil(TAUGHT, lessons, budget, seed=1).model

    again = distil(TAUGHT, lessons, budget, seed=1).model
    twice = budget.model_copy(update={"activation_checkpointing": True})
    less_memory = distil(TAUGHT, lessons, twice, seed=1).model
    other = distil(TAUGHT, lessons, budget, seed=2).model

    assert changed_names(again, bits(first)) == set()
    assert changed_names(less_memory, bits(first)) == set()
    assert changed_names(other, bits(first))


def test_training_in_bfloat16_keeps_masters_in_float32(folder):
    """A rate of 1e-5 is below what bfloat16 weights of about .1 can show in one step, 2 ** -12; the
    sum of forty steps is not.
    """
    budget = settings(folder, dtype="bfloat16", steps=40, learning_rate=1e-5, warmup=1)

    model = distil(TAUGHT, [("Ada likes Rome and tea.", "kept")], budget, seed=0).model

    start = upcycle(dense().model, budget, seed=0).bfloat16()
    assert model.dtype == torch.bfloat16
    moved = [
        (a != b).float().mean() for a, b in zip(model.parameters(), start.parameters(), strict=True)
    ]
    assert max(moved) > 0.05


def test_a_log_tells_losses_and_speed_where_there_is_no_terminal(folder, caplog):
    with caplog.at_level(logging.INFO):
        distil(TAUGHT, [("Ada likes Rome and tea.", "kept")], settings(folder, steps=2), seed=0)

    assert "distilling, step 2 of 2: kl " in caplog.text
    assert "tokens/s" in caplog.text


def test_a_processor_is_said_to_take_hours_where_it_does(folder, monkeypatch, caplog):
    """1,000 parameters: 2 x 1e9 x 1e3 + 6 x 2e9 x 1e3 operations are 1.4e13.

    With the clock standing at one tick for two products of 1024: 2.147e9 in a second, so 1.81 h.
    """
    dense = SimpleNamespace(model=nn.Linear(1000, 1, bias=False))
    monkeypatch.setattr(nn.Linear, "device", torch.device("cpu"), raising=False)
    monkeypatch.setattr(nn.Linear, "dtype", torch.float32, raising=False)
    ticks = iter(range(100))
    monkeypatch.setattr(distillation, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))

    hours = tell_if_hours("distillation", dense, forward=1e9, training=2e9)
    told = caplog.text
    short = tell_if_hours("distillation", dense, forward=1e8, training=2e8)

    assert hours == pytest.approx(1.4e13 / 2**31 / 3600)
    assert short == pytest.approx(hours / 10)
    assert "No GPU is in use: distillation takes 2 hours at least on this processor" in told
    assert caplog.text == told


def test_samples_longer_than_the_model_are_refused_before_training(folder):
    with pytest.raises(InputError, match="64 positions, and a sample has 100 tokens"):
        distil(TAUGHT, [("x", "kept")], settings(folder, length=100), seed=0)


def test_the_dense_model_says_the_same_for_the_same_seed_and_begins_as_it_is_asked():
    model = dense()
    budget = SamplingSettings(texts=9, apart=1, max_new_tokens=4, batch_size=4, seed=3)

    texts = sample_texts(model, budget)

    assert texts == sample_texts(model, budget)
    assert texts != sample_texts(model, budget.model_copy(update={"seed": 4}))
    assert len(texts) == 10
    begun = ("The most important fact", "An introduction", "Question: ", "<|endoftext|>")
    assert all(text.startswith(begun) for text in texts)


def test_what_is_kept_apart_is_not_what_is_shown(folder):
    shown, apart = sample_dense(settings(folder))

    assert (len(shown), len(apart)) == (6, 2)
    assert not {*shown} & {*apart}
