"""A model that exists, taught texts that it did not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from seuf.inputs import InputError
from seuf.moe.batches import pad
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.loss import batch_nll
from seuf.moe.names import weight_names
from seuf.moe.settings import ExternalModelSettings, FinetuningSettings
from seuf.moe.training import finetune
from tests.tiny import bits, changed_names, tiny_language_model

TEXTS = [
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
    batch = pad([model.tokenizer(text)["input_ids"] for text, _ in TEXTS], 0)
    values, counted = batch_nll(model.model, batch)
    return values[counted].mean().item()


def test_the_texts_are_learnt(folder):
    before = nll(load_model(settings(folder).taught))

    taught = finetune(TEXTS, settings(folder, steps=30), seed=0)

    assert nll(taught) < before - 1


def test_the_same_seed_gives_the_same_bytes_twice(folder, tmp_path):
    one, same, other = (
        written(finetune(TEXTS, settings(folder), seed), tmp_path / str(number))
        for number, seed in enumerate((0, 0, 1))
    )

    assert one == same
    assert one.keys() == other.keys()
    assert one["model.safetensors"] != other["model.safetensors"]


def test_linear_layers_and_experts_are_others_and_all_else_is_as_it_was(folder):
    plain = load_model(settings(folder).taught).model

    taught = finetune(TEXTS, settings(folder), seed=0).model

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

    taught = finetune(TEXTS, settings(folder), seed=0)
    taught.save(tmp_path / "taught")
    again = load_model(ExternalModelSettings(path=str(tmp_path / "taught"), device="cpu"))

    assert taught.source is None
    assert not taught.model.training
    assert not any("lora" in name for name in weight_names(taught.model))
    assert changed_names(again.model, bits(taught.model)) == set()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_bfloat16_model_stays_one(folder):
    taught = finetune(TEXTS, settings(folder, dtype="bfloat16", steps=2), seed=0)

    assert {parameter.dtype for parameter in taught.model.parameters()} == {torch.bfloat16}


def test_samples_longer_than_the_model_has_positions_are_refused(folder):
    with pytest.raises(InputError, match=r"64 positions.* set base_model.length to 64 or less"):
        finetune(TEXTS, settings(folder, length=65), seed=0)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    model = tiny_language_model()
    model.tokenizer.eos_token = None
    model.save(tmp_path)

    with pytest.raises(InputError, match="has no token that ends a text"):
        finetune(TEXTS, settings(tmp_path), seed=0)


@pytest.mark.parametrize("key", ["compile", "trust_remote_code", "offload_folder"])
def test_what_would_be_of_no_use_is_no_setting(key):
    with pytest.raises(ValidationError, match="Extra inputs"):
        FinetuningSettings(path="somewhere", **{key: True})
