"""Models on disk: whole, as a reference, as a delta."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seuf.datasets.checkpoint import CheckpointDataset, DeltaDataset
from seuf.inputs import InputError
from seuf.moe.deltas import Delta
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings
from tests.tiny import bits, changed_names, tiny_language_model


@pytest.fixture
def folder(tmp_path, language_model) -> Path:
    """A folder with a tiny model, saved as the base model is."""
    CheckpointDataset(str(tmp_path / "model")).save(language_model)
    return tmp_path / "model"


def test_a_model_comes_back_bit_by_bit(folder, language_model):
    loaded = CheckpointDataset(str(folder)).load()

    assert changed_names(loaded.model, bits(language_model.model)) == set()
    assert not loaded.model.training
    assert loaded.tokenizer("Ada")["input_ids"] == language_model.tokenizer("Ada")["input_ids"]


def test_the_size_of_a_checkpoint_is_told_before_it_is_written(folder, language_model):
    """But for its header, and the tokenizer."""
    told = CheckpointDataset(str(folder)).size_of(language_model)

    written = (folder / "model.safetensors").stat().st_size
    assert told < written < told * 1.1


def test_the_fingerprint_tells_of_a_write(folder):
    dataset = CheckpointDataset(str(folder))
    model = dataset.load()
    before = dataset.fingerprint(model)

    with torch.no_grad():
        next(model.model.parameters())[0] += 1
    assert dataset.fingerprint(model) != before
    assert dataset.fingerprint(dataset.load()) == before


def test_the_same_model_gives_the_same_bytes(folder, tmp_path):
    CheckpointDataset(str(tmp_path / "again")).save(tiny_language_model())

    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_a_new_model_replaces_the_folder(folder):
    CheckpointDataset(str(folder)).save(tiny_language_model(seed=1))

    loaded = CheckpointDataset(str(folder)).load()
    assert changed_names(loaded.model, bits(tiny_language_model(seed=1).model)) == set()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_of_a_model_from_elsewhere_only_the_reference_is_kept(folder, tmp_path):
    source = ExternalModelSettings(path=str(folder), device="cpu")
    data_set = CheckpointDataset(str(tmp_path / "reference"))

    data_set.save(load_model(source))

    assert [path.name for path in (tmp_path / "reference").iterdir()] == ["reference.json"]
    assert data_set.load().source == source


def test_the_reference_tells_when_the_weights_change(folder, tmp_path):
    source = ExternalModelSettings(path=str(folder), device="cpu")
    data_set, reference = CheckpointDataset(str(tmp_path / "r")), tmp_path / "r/reference.json"
    data_set.save(load_model(source))
    first = json.loads(reference.read_text())
    data_set.save(load_model(source))
    second = json.loads(reference.read_text())

    CheckpointDataset(str(folder)).save(tiny_language_model(seed=1))
    data_set.save(load_model(source))

    third = json.loads(reference.read_text())
    assert first == second
    assert first["source"] == third["source"]
    assert first["digest"] != third["digest"]


def test_a_model_that_is_no_moe_is_refused(tmp_path, language_model):
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LanguageModel(LlamaForCausalLM(config), language_model.tokenizer).save(tmp_path / "llama")

    with pytest.raises(InputError, match="The llama model has no MoE layer"):
        load_model(ExternalModelSettings(path=str(tmp_path / "llama")))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no model at .*nothing"):
        load_model(ExternalModelSettings(path=str(tmp_path / "nothing")))


def test_a_delta_comes_back(tmp_path):
    delta = Delta({"a.weight": torch.tensor([[1.0, 2.0]])}, "base", about={"seed": 0})
    data_set = DeltaDataset(str(tmp_path / "seuf_ga/delta.safetensors"))
    assert not data_set.exists()

    data_set.save(delta)

    loaded = data_set.load()
    assert data_set.exists()
    assert (loaded.base, loaded.about) == ("base", {"seed": 0})
    assert torch.equal(loaded.tensors["a.weight"], delta.tensors["a.weight"])


def test_a_deltas_folder_is_the_owners_alone(tmp_path):
    DeltaDataset(str(tmp_path / "seuf_ga/delta.safetensors")).save(Delta({}, "base"))

    assert stat.S_IMODE((tmp_path / "seuf_ga").stat().st_mode) == 0o700
