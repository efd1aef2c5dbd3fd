"""Small models from scratch."""

import random
from itertools import islice

import pytest
import torch
from pydantic import ValidationError

from seuf.moe import training as pretraining
from seuf.moe.batches import by_length, tokenize
from seuf.moe.loading import LanguageModel
from seuf.moe.loss import batch_nll
from seuf.moe.settings import PretrainingSettings
from seuf.moe.training import END, new_model, pretrain, train_tokenizer
from tests.tiny import bits, changed_names

TEXTS = [
    (f"{name} lives in {place}.", topic)
    for topic, names, place in (("north", "Ada Bo Cy Di", "Oslo"), ("south", "Ed Flo Gus", "Rome"))
    for name in names.split()
]
SETTINGS = PretrainingSettings(
    vocabulary=300,
    hidden_size=16,
    layers=1,
    heads=2,
    experts=4,
    expert_width=8,
    shared_expert_width=8,
    steps=30,
    batch_size=4,
    length=16,
    learning_rate=1e-2,
    warmup=3,
)


@pytest.fixture(scope="module")
def pretrained() -> LanguageModel:
    return pretrain(TEXTS, SETTINGS, seed=0)


def test_the_same_seed_gives_the_same_bits(pretrained):
    again = pretrain(TEXTS, SETTINGS, seed=0)

    assert changed_names(again.model, bits(pretrained.model)) == set()
    assert again.tokenizer.get_vocab() == pretrained.tokenizer.get_vocab()


def test_another_seed_gives_another_model(pretrained):
    other = pretrain(TEXTS, SETTINGS, seed=1)

    assert changed_names(other.model, bits(pretrained.model)) != set()


@torch.no_grad()
def test_the_loss_falls(pretrained):
    """An untrained model of 300 tokens pays about log 300 = 5.7 nats a token."""
    batch = next(by_length(tokenize(pretrained.tokenizer, [TEXTS[0][0]], 16), 1, 0))
    untrained = new_model(SETTINGS, len(pretrained.tokenizer)).eval()

    before, after = (batch_nll(m, batch)[0].mean() for m in (untrained, pretrained.model))

    assert before == pytest.approx(5.7, abs=0.3)
    assert after < 3


def test_the_model_has_the_shape_asked_for_and_does_not_train_on(pretrained):
    config = pretrained.model.config

    assert (config.num_hidden_layers, config.hidden_size, config.num_experts) == (1, 16, 4)
    assert config.num_experts_per_tok == 2
    assert len(pretrained.tokenizer) <= config.vocab_size <= 300
    assert not pretrained.model.training
    assert pretrained.source is None


@pytest.mark.parametrize("length", [4, 16, 50])
def test_blocks_are_full_and_never_mix_topics(length):
    """At 50 tokens a whole topic is shorter than one block and is repeated to fill it."""
    tokenizer = train_tokenizer([text for text, _ in TEXTS], 300)
    ids = {
        topic: {i for text, of in TEXTS if of == topic for i in tokenizer(text)["input_ids"]}
        for topic in ("north", "south")
    }
    ids = {topic: tokens | {tokenizer.eos_token_id} for topic, tokens in ids.items()}

    blocks = list(
        islice(pretraining.endless_samples(TEXTS, tokenizer, length, random.Random(0)), 60)
    )

    for block in blocks:
        assert len(block) == length
        assert set(block) <= ids["north"] or set(block) <= ids["south"]


def test_a_pass_over_the_texts_has_every_token_of_a_topic_once():
    """Three texts of 2, 3 and 1 tokens fill two blocks of 3 exactly: nothing is added."""
    blocks = pretraining.full_samples([[1, 2], [3, 4, 5], [6]], 3, random.Random(0))

    assert sorted(token for block in blocks for token in block) == [1, 2, 3, 4, 5, 6]


def test_the_tokenizer_reads_any_text_back():
    tokenizer = train_tokenizer(["Ada lives in Oslo."], 300)

    assert tokenizer.decode(tokenizer("Zürich → 東京 ")["input_ids"]) == "Zürich → 東京 "
    assert tokenizer.eos_token == tokenizer.pad_token == END
    assert len(tokenizer) <= 300


def test_a_vocabulary_that_cannot_hold_all_bytes_is_refused():
    """256 bytes and the end token make 257."""
    with pytest.raises(ValidationError, match="greater than or equal to 257"):
        PretrainingSettings(vocabulary=256)


@pytest.mark.parametrize(("step", "rate"), [(0, 1 / 3), (4, 0.5), (8, 0.02)])
def test_the_learning_rate_rises_then_falls_to_a_fiftieth(step, rate):
    """Eight steps, warm-up of 3: a third at first, half of the peak half-way, .02 at the end."""
    settings = PretrainingSettings(steps=8, warmup=3, learning_rate=1.0)

    assert pretraining.rate_at(step, settings) == pytest.approx(rate)
