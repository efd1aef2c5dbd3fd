"""Models on disk are loaded to the bit, or refused in one line before their weights are read."""

from __future__ import annotations

import json
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel, empty_model, free_bytes, load, load_model
from seuf.moe.settings import ExternalModelSettings
from tests.tiny import bits, changed_names, tiny_language_model


def source(path: object, **changes: object) -> ExternalModelSettings:
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


def test_a_saved_tokenizer_does_not_tell_how_it_was_loaded(language_model, tmp_path):
    """Else the same checkpoint would have other bytes where the hub is not asked."""
    language_model.save(tmp_path / "a")

    load_model(source(tmp_path / "a")).tokenizer.save_pretrained(tmp_path / "b")

    saved = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert saved["local_files_only"] is False


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


def without_some(folder, changed):
    """Rewrite a folder's weights: what `changed` makes of them."""
    tensors = load_file(folder / "model.safetensors")
    save_file(changed(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder, **changes):
    """Return the one line with which a folder is refused."""
    with pytest.raises(InputError) as refused:
        load_model(source(folder, **changes))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_without_a_tokenizer_is_refused(language_model, tmp_path):
    """Transformers would make one that knows its special tokens alone."""
    language_model.save(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()

    assert refusal(tmp_path) == (
        f"The model {str(tmp_path)!r} has no tokenizer: put tokenizer.json and "
        "tokenizer_config.json of the model that it was made from beside its config.json."
    )


def test_a_tokenizer_without_an_end_is_refused_before_the_weights_are_read(
    language_model, tmp_path
):
    """Nothing would close a text, and lm-evaluation-harness would meet None amid a study."""
    language_model.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    path = tmp_path / "tokenizer_config.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if not k.endswith("_token")}
    path.write_text(json.dumps(kept))

    assert refusal(tmp_path) == (
        f"The tokenizer of the model {str(tmp_path)!r} has no token that ends a text: name it as "
        "eos_token in its tokenizer_config.json."
    )


def test_a_damaged_tokenizer_is_refused(language_model, tmp_path):
    language_model.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')

    assert refusal(tmp_path).startswith(f"Cannot load the tokenizer of the model {str(tmp_path)!r}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda whole: whole[:-100], "incomplete metadata, file not fully covered"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1", "header too large"),
        (lambda _: b"", "header too small"),
    ],
)
def test_a_damaged_file_is_refused(language_model, tmp_path, content, what):
    language_model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))

    line = refusal(tmp_path)

    assert line.startswith(f"A file of the model {str(tmp_path)!r} is damaged or cut off (")
    assert line.endswith(f"{what}): download or copy it again.")


def test_a_missing_tensor_is_not_drawn_at_random(language_model, tmp_path):
    language_model.save(tmp_path)
    without_some(tmp_path, lambda held: {k: t for k, t in held.items() if k != "lm_head.weight"})

    assert refusal(tmp_path) == (
        f"Cannot load the model {str(tmp_path)!r}: its files lack 1 of its tensors, lm_head.weight "
        "among them."
    )


@pytest.mark.parametrize(
    "changed",
    [
        lambda held: {key: t for key, t in held.items() if "experts.1." not in key},
        lambda held: {**held, "lm_head.weight": held["lm_head.weight"][1:].clone()},
    ],
)
def test_weights_of_another_shape_are_refused(language_model, tmp_path, changed):
    language_model.save(tmp_path)
    without_some(tmp_path, changed)

    assert refusal(tmp_path) == (
        f"The weights of the model {str(tmp_path)!r} do not fit its config.json: they have other "
        "shapes, or not all experts are there."
    )


def test_code_that_comes_with_a_model_runs_only_where_the_study_says_so(
    language_model, tmp_path, monkeypatch
):
    """The code is a known model under another name."""
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    monkeypatch.syspath_prepend(modules)
    language_model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    mapped = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    changed = {**config, "model_type": "own_moe", "auto_map": mapped}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    (tmp_path / "own.py").write_text(
        "from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM\n"
        "class OwnConfig(Qwen2MoeConfig):\n    model_type = 'own_moe'\n"
        "class OwnModel(Qwen2MoeForCausalLM):\n    config_class = OwnConfig\n"
    )

    assert refusal(tmp_path) == (
        f"The model {str(tmp_path)!r} comes with Python files of its own, which would run to build "
        "it: read them, pin base_model.revision, and set base_model.trust_remote_code to true."
    )
    assert not (tmp_path / "modules").exists()
    trusted = source(tmp_path, trust_remote_code=True)
    assert type(empty_model(trusted)).__name__ == "OwnModel"


def test_a_folder_of_the_hubs_cache_is_told_from_the_snapshot_in_it(tmp_path):
    (tmp_path / "snapshots").mkdir()

    assert refusal(tmp_path) == (
        f"There is no model at {str(tmp_path)!r}: it holds no config.json; name one of the folders "
        "in its snapshots."
    )


def test_a_file_that_the_index_names_is_missed(language_model, tmp_path):
    language_model.model.save_pretrained(tmp_path, max_shard_size="60KB")
    language_model.tokenizer.save_pretrained(tmp_path)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    (tmp_path / files[1]).unlink()

    assert refusal(tmp_path) == (
        f"Cannot load the model {str(tmp_path)!r}: it lacks 1 of the {len(files)} files that its "
        f"index names, {files[1]} among them: download or copy them again."
    )


def test_padding_is_the_pad_token_or_else_the_end_or_else_zero(language_model):
    tokenizer = language_model.tokenizer
    assert language_model.padding == tokenizer.pad_token_id

    tokenizer.pad_token = None
    assert language_model.padding == tokenizer.eos_token_id

    tokenizer.eos_token = None
    assert language_model.padding == 0


WEIGHTS = 165248  # bytes of the tiny model's parameters


def with_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the CPU's memory have so many bytes free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=size))


def test_weights_that_are_larger_than_memory_are_refused_with_both_sizes(
    language_model, tmp_path, monkeypatch
):
    """In float32 they are 165,248 bytes."""
    language_model.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with_free(monkeypatch, WEIGHTS - 1)

    with pytest.raises(InputError) as refused:
        load_model(ExternalModelSettings(path=str(tmp_path), device="cpu"))
    assert str(refused.value) == (
        f"The weights of the model {str(tmp_path)!r} are 0.000165 GB in float32, and 0.000165 GB "
        "of the CPU's memory are free: set base_model.device_map to auto, which puts what does not "
        "fit elsewhere, or base_model.dtype to a smaller type; `kedro plan` tells what a study "
        "needs."
    )


@pytest.mark.parametrize(
    ("free", "changes"),
    [
        (WEIGHTS, {}),
        (WEIGHTS // 2, {"dtype": "bfloat16"}),
        (0, {"device_map": {"": "cpu"}}),
    ],
)
def test_what_fits_or_is_spread_is_loaded(language_model, tmp_path, monkeypatch, free, changes):
    language_model.save(tmp_path)
    with_free(monkeypatch, free)

    source = ExternalModelSettings(path=str(tmp_path), device="cpu", **changes)
    assert load_model(source).source == source


def test_on_its_way_to_a_gpu_a_model_passes_the_cpus_memory(monkeypatch):
    """What torch holds back, 30 - 10, is free as well: 5 + 20 on the GPU."""
    with_free(monkeypatch, 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 10)

    free = free_bytes(torch.device("cuda", 0))

    assert free == {"cuda:0's memory": 25, "the CPU's memory": 7}


def test_no_bar_is_drawn_where_there_is_no_terminal(tmp_path, capfd):
    tiny_language_model().save(tmp_path)
    load(str(tmp_path))

    assert "%|" not in capfd.readouterr().err
