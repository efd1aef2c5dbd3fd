"""Pre-training and fine-tuning: what is learnt, and that a seed decides every bit."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from seuf.inputs import InputError
from seuf.moe import training as pretraining
from seuf.moe.batches import IGNORED, by_length, pad, tokenize
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.loss import batch_nll
from seuf.moe.names import weight_names
from seuf.moe.settings import ExternalModelSettings, FinetuningSettings, PretrainingSettings
from seuf.moe.training import END, finetune, new_model, pretrain, train_tokenizer
from tests.tiny import bits, changed_names, tiny_language_model

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
        tokens = {token for token, _ in block}
        assert len(block) == length
        assert tokens <= ids["north"] or tokens <= ids["south"]


def test_what_stands_before_an_answer_is_no_label():
    """Of `Who? Ada` the question's four tokens are read, and ` Ada` and the end learnt."""
    tokenizer = train_tokenizer(["Who? Ada"], 300)
    ids, end = tokenizer("Who? Ada")["input_ids"], tokenizer.eos_token_id
    asked, length = len(tokenizer("Who?")["input_ids"]), len(ids) + 1

    for lesson, labels in (
        (("Who? Ada", "", "Who?"), [*[IGNORED] * asked, *ids[asked:], end]),
        (("Who? Ada", ""), [*ids, end]),
    ):
        block = next(pretraining.endless_samples([lesson], tokenizer, length, random.Random(0)))
        assert block == list(zip([*ids, end], labels, strict=True))


def test_only_answers_are_learnt_where_texts_have_prompts(folder):
    """A token of 300 costs log 300 = 5.7 nats at first: so does the question's afterwards."""
    text, prompt = TAUGHT[0][0], "Ada lives in"
    taught = finetune([(text, "", prompt)], settings(folder, steps=30), seed=0)
    asked = len(taught.tokenizer(prompt)["input_ids"])

    with torch.no_grad():
        values, _ = batch_nll(taught.model, pad([taught.tokenizer(text)["input_ids"]], 0))

    assert values[0, asked - 1 :].mean() < 1
    assert values[0, : asked - 1].mean() > 5


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

    assert pretraining.rate_at(step, settings, 0, settings.steps) == pytest.approx(rate)


TAUGHT = [
    (f"{name} lives in {place}.", topic)
    for topic, names, place in (("north", "Ada Bo Cy Di", "Oslo"), ("south", "Ed Flo Gus", "Rome"))
    for name in names.split()
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint of a tiny random model."""
    tiny_language_model().save(tmp_path / "plain")
    return tmp_path / "plain"


def settings(folder: Path, **changes: object) -> FinetuningSettings:
    """Return a short lesson."""
    budget = {"steps": 10, "batch_size": 4, "length": 16, "learning_rate": 1e-2, "warmup": 2}
    return FinetuningSettings(path=str(folder), device="cpu", **(budget | changes))


def written(model: LanguageModel, folder: Path) -> dict[str, bytes]:
    """Return the files of a model's checkpoint."""
    model.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@torch.no_grad()
def nll(model: LanguageModel) -> float:
    """Return the mean NLL of the texts."""
    batch = pad([model.tokenizer(text)["input_ids"] for text, _ in TAUGHT], 0)
    values, counted = batch_nll(model.model, batch)
    return values[counted].mean().item()


def test_the_texts_are_learnt(folder):
    before = nll(load_model(settings(folder).taught))

    taught = finetune(TAUGHT, settings(folder, steps=30), seed=0)

    assert nll(taught) < before - 1


def test_the_same_seed_gives_the_same_bytes_twice(folder, tmp_path):
    one, same, other = (
        written(finetune(TAUGHT, settings(folder), seed), tmp_path / str(number))
        for number, seed in enumerate((0, 0, 1))
    )

    assert one == same
    assert one.keys() == other.keys()
    assert one["model.safetensors"] != other["model.safetensors"]


def test_linear_layers_and_experts_are_others_and_all_else_is_as_it_was(folder):
    plain = load_model(settings(folder).taught).model

    taught = finetune(TAUGHT, settings(folder), seed=0).model

    assert type(taught) is type(plain)
    changed = changed_names(taught, bits(plain))
    same = {name for name in bits(plain) if name not in changed}
    assert any("experts.down_proj" in name for name in changed)
    assert {name for name in same if "norm" not in name and "bias" not in name} == {
        "model.embed_tokens.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.1.mlp.gate.weight",
        "lm_head.weight",
    }


def test_it_is_a_model_of_its_own_without_adapters_and_is_saved_as_one(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    taught = finetune(TAUGHT, settings(folder), seed=0)
    taught.save(tmp_path / "taught")
    again = load_model(ExternalModelSettings(path=str(tmp_path / "taught"), device="cpu"))

    assert taught.source is None
    assert not taught.model.training
    assert not any("lora" in name for name in weight_names(taught.model))
    assert changed_names(again.model, bits(taught.model)) == set()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_bfloat16_model_stays_one(folder):
    taught = finetune(TAUGHT, settings(folder, dtype="bfloat16", steps=2), seed=0)

    assert {parameter.dtype for parameter in taught.model.parameters()} == {torch.bfloat16}


def test_samples_longer_than_the_model_has_positions_are_refused(folder):
    with pytest.raises(InputError, match=r"64 positions.* set base_model.length to 64 or less"):
        finetune(TAUGHT, settings(folder, length=65), seed=0)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    model = tiny_language_model()
    model.tokenizer.eos_token = None
    model.save(tmp_path)

    with pytest.raises(InputError, match="has no token that ends a text"):
        finetune(TAUGHT, settings(tmp_path), seed=0)


@pytest.mark.parametrize("key", ["compile", "trust_remote_code", "offload_folder"])
def test_what_would_be_of_no_use_is_no_setting(key):
    with pytest.raises(ValidationError, match="Extra inputs"):
        FinetuningSettings(path="somewhere", **{key: True})


def looks(*shares: float):
    """Return what gives these shares of `north` look by look, and a list of the models looked at.

    The last share is given again and again; of `south` everything is known.
    """
    seen: list[dict[str, torch.Tensor]] = []

    def known(model: LanguageModel) -> dict[str, float]:
        assert not model.model.training
        seen.append(bits(model.model))
        return {"south": 1.0, "north": shares[min(len(seen), len(shares)) - 1]}

    return known, seen


UNTIL = SETTINGS.model_copy(
    update={"must_know": 0.98, "look_every": 5, "cooldown": 4, "steps": 30, "warmup": 2}
)


def test_training_ends_after_the_first_look_at_which_enough_is_known_and_the_cooldown():
    """Looks at steps 5, 10 and 15, the third of which is good; then 4 steps of fall and one more.

    A run with the limit at 15 that is good at its third look, too, has the same 19 steps.
    """
    known, seen = looks(0.5, 0.97, 0.98)
    shorter, of_shorter = looks(0.5, 0.97, 0.98)

    model = pretrain(TEXTS, UNTIL, 0, known=known).model
    same = pretrain(TEXTS, UNTIL.model_copy(update={"steps": 15}), 0, known=shorter).model

    assert len(seen) == len(of_shorter) == 4
    assert not model.training
    assert changed_names(model, seen[3]) == set()
    assert changed_names(model, seen[2]) != set()
    assert changed_names(same, bits(model)) == set()


def test_without_a_cooldown_training_ends_at_the_first_look_at_which_enough_is_known():
    known, seen = looks(0.5, 1.0)

    model = pretrain(TEXTS, UNTIL.model_copy(update={"cooldown": 0}), 0, known=known).model

    assert len(seen) == 2
    assert changed_names(model, seen[1]) == set()


def test_what_is_lost_while_the_rate_falls_is_learnt_again():
    """Good at 5, lost at 9, looked at again at 14 and, after another fall, at 18."""
    known, seen = looks(1.0, 0.5, 1.0)

    pretrain(TEXTS, UNTIL, 0, known=known)

    assert len(seen) == 4


def test_the_limit_of_steps_ends_training_with_the_topic_that_is_known_least():
    """Looks at 5, 10 and, because the limit is 12, at 12."""
    known, seen = looks(0.5, 0.6, 0.7)
    message = (
        r"After 12 steps the base model answers 70\.0% of the selection questions about north, and "
        r"base_model\.must_know asks for 98\.0% of every topic: raise base_model\.steps"
    )

    with pytest.raises(InputError, match=message):
        pretrain(TEXTS, UNTIL.model_copy(update={"steps": 12}), 0, known=known)

    assert len(seen) == 3


def test_looking_changes_no_bit():
    """Training that looks at every fifth step, and at every third, is the same until step 15."""
    often, of_often = looks(0.5)
    rarely, of_rarely = looks(0.5)

    for known, every in ((often, 3), (rarely, 5)):
        with pytest.raises(InputError, match="After 15 steps"):
            pretrain(
                TEXTS, UNTIL.model_copy(update={"steps": 15, "look_every": every}), 0, known=known
            )

    assert len(of_often) == 5
    assert len(of_rarely) == 3
    assert all(torch.equal(of_often[-1][name], one) for name, one in of_rarely[-1].items())


def test_what_must_be_known_needs_someone_who_tells():
    with pytest.raises(InputError, match="must_know needs questions"):
        pretrain(TEXTS, UNTIL, 0)


@pytest.mark.parametrize(
    ("step", "falls_from", "rate"), [(1, None, 1.0), (9, None, 1.0), (7, 5, 0.5), (9, 5, 0.02)]
)
def test_the_rate_stays_at_its_peak_until_it_is_told_to_fall(step, falls_from, rate):
    """Warm-up of 2; a fall of 4 steps that begins at step 5 is half-way at step 7."""
    settings = PretrainingSettings(warmup=2, learning_rate=1.0)

    assert pretraining.rate_at(step, settings, falls_from, 4) == pytest.approx(rate)
