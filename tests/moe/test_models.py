"""Models on disk."""

import pytest
import torch
from transformers import LlamaConfig

from seuf.errors import InputError
from seuf.moe.models import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings
from tests.tiny import bits, changed_names, tiny_language_model


def source(path: object, **changes: str) -> ExternalModelSettings:
    """Return settings of a model in a folder, on the CPU."""
    return ExternalModelSettings(path=str(path), device="cpu", **changes)


def test_a_saved_model_is_loaded_bit_by_bit(language_model, tmp_path):
    language_model.save(tmp_path)

    loaded = load_model(source(tmp_path))

    assert changed_names(loaded.model, bits(language_model.model)) == set()
    assert not loaded.model.training
    assert loaded.source == source(tmp_path)
    assert (
        loaded.tokenizer("Ada lives")["input_ids"]
        == (language_model.tokenizer("Ada lives")["input_ids"])
    )


def test_every_architecture_survives_the_disk(model, language_model, tmp_path):
    LanguageModel(model, language_model.tokenizer).save(tmp_path)

    loaded = load_model(source(tmp_path))

    assert changed_names(loaded.model, bits(model)) == set()


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        tiny_language_model().save(tmp_path / name)

    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "other").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_the_type_of_the_weights_can_be_chosen(language_model, tmp_path):
    language_model.save(tmp_path)

    assert load_model(source(tmp_path, dtype="bfloat16")).model.dtype == torch.bfloat16


def test_a_dense_model_is_refused_before_its_weights_are_read(tmp_path):
    """The folder has a configuration and no weights at all."""
    LlamaConfig(vocab_size=97, hidden_size=32, architectures=["LlamaForCausalLM"]).save_pretrained(
        tmp_path
    )

    with pytest.raises(InputError, match="llama model has no MoE layer"):
        load_model(source(tmp_path))


def test_a_missing_folder_is_one_clear_sentence(tmp_path):
    with pytest.raises(InputError, match="There is no model at") as error:
        load_model(source(tmp_path / "nowhere"))

    assert str(tmp_path / "nowhere") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_one_clear_sentence(language_model, tmp_path):
    language_model.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(InputError, match="Cannot load the model") as error:
        load_model(source(tmp_path))

    assert "\n" not in str(error.value)


def test_padding_is_the_pad_token_or_else_the_end_or_else_zero(language_model):
    tokenizer = language_model.tokenizer
    assert language_model.padding == tokenizer.pad_token_id

    tokenizer.pad_token = None
    assert language_model.padding == tokenizer.eos_token_id

    tokenizer.eos_token = None
    assert language_model.padding == 0
