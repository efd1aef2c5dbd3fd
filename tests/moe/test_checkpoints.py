"""Checkpoints on disk are read as transformers reads them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from seuf.inputs import InputError
from seuf.moe.checkpoints import INDEX, SINGLE, Checkpoint, folder_digest
from seuf.moe.comparison import Overlaid, compare
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import checkpoint_dtypes, model_digest
from tests.tiny import EIGHT, loaded, saved, tiny_model


@pytest.mark.parametrize("model_type", EIGHT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_and_the_model_loaded_from_it_have_one_digest(model_type, dtype, tmp_path):
    base = saved(model_type, tmp_path / "base", dtype)
    model = loaded(base)

    assert folder_digest(base, checkpoint_dtypes(model)) == model_digest(model)


def test_a_float32_folder_loaded_in_bfloat16_has_the_digest_of_that(tmp_path):
    base = saved("mixtral", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)

    assert folder_digest(base, checkpoint_dtypes(model)) == model_digest(model)
    assert folder_digest(base, checkpoint_dtypes(loaded(base))) != model_digest(model)


def test_what_a_checkpoint_holds_beyond_the_model_is_no_matter(tmp_path):
    base = saved("mixtral", tmp_path / "base")
    digest = folder_digest(base, {"default": "float32"})
    save_file({"model.layers.9.eh_proj.weight": torch.ones(2)}, base / "extra.safetensors")
    index = json.loads((base / INDEX).read_text())
    index["weight_map"]["model.layers.9.eh_proj.weight"] = "extra.safetensors"
    (base / INDEX).write_text(json.dumps(index))

    assert folder_digest(base, {"default": "float32"}) == digest


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / INDEX).unlink(), "holds neither"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, spoil, message):
    base = saved("mixtral", tmp_path / "base")
    spoil(base)

    with pytest.raises((InputError, OSError, ValueError), match=message):
        folder_digest(base, {"default": "float32"})


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path):
    base = saved("mixtral", tmp_path / "base")
    index = json.loads((base / INDEX).read_text())
    del index["weight_map"]["lm_head.weight"]
    (base / INDEX).write_text(json.dumps(index))

    with pytest.raises(InputError, match=r"not a whole checkpoint: it lacks lm_head\.weight"):
        folder_digest(base, {"default": "float32"})


def tied_twice(folder: Path) -> Path:
    """Write a model whose head is tied to its embeddings, and stored beside them."""
    tiny_model("qwen2_moe", tie_word_embeddings=True).save_pretrained(folder)
    tensors = load_file(folder / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    return folder


def test_a_tied_tensor_that_is_stored_twice_counts_once(tmp_path):
    """Export said of such a folder that it was another base than the model loaded from it."""
    base = tied_twice(tmp_path)
    model = loaded(base)

    assert folder_digest(base, checkpoint_dtypes(model)) == model_digest(model)


def test_two_tensors_that_are_not_the_same_are_not_tied(tmp_path):
    """Transformers does not tie them either, whatever the configuration says."""
    base = tied_twice(tmp_path)
    tensors = load_file(base / SINGLE)
    save_file(
        {**tensors, "lm_head.weight": -tensors["lm_head.weight"]}, base / SINGLE, {"format": "pt"}
    )
    model = loaded(base)

    assert folder_digest(base, checkpoint_dtypes(model)) == model_digest(model)
    assert "lm_head.weight" in Checkpoint(base).files


def test_an_export_changes_both_places_of_a_tied_tensor(tmp_path):
    """Else the exported model would have its old head, untied."""
    base = tied_twice(tmp_path / "base")
    model = loaded(base)
    embeddings = model.get_input_embeddings().weight.detach() * 2
    delta = Delta.of(model, {"model.embed_tokens.weight": embeddings}, model_digest(model))

    export(base, delta, tmp_path / "out")

    with delta.applied_to(model):
        assert torch.equal(loaded(tmp_path / "out").lm_head.weight, model.lm_head.weight)
    assert compare(Checkpoint(base), Checkpoint(tmp_path / "out"), delta.dtypes) == compare(
        Checkpoint(base), Overlaid(Checkpoint(base), delta), delta.dtypes
    )
