"""What a base with a delta applied is, is told without the model being made."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from seuf.audit.digest_after import digest_after
from seuf.inputs import InputError
from seuf.moe.checkpoints import INDEX, Checkpoint, folder_digest, fused_keys
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.names import split_row
from tests.moe.folders import delta_of, loaded, saved
from tests.moe.test_deltas import some_change

# In checkpoints of granitemoe all experts of a layer are one tensor, in the others each is its own.
TYPES = ["qwen2_moe", "granitemoe", "gpt_oss"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", TYPES)
def test_it_is_the_digest_of_the_model_with_the_delta_applied(model_type, dtype, tmp_path):
    base = saved(model_type, tmp_path / "base", dtype)
    model, delta = loaded(base), delta_of(base)
    with delta.applied_to(model):
        expected = model_digest(model)

    assert digest_after(base, delta) == expected
    assert expected != delta.base


@pytest.mark.parametrize("model_type", TYPES)
def test_it_is_the_digest_of_the_exported_checkpoint(model_type, tmp_path):
    base = saved(model_type, tmp_path / "base")
    delta = delta_of(base)

    export(base, delta, tmp_path / "out")

    assert digest_after(base, delta) == folder_digest(tmp_path / "out", delta.dtypes)


def test_rows_of_fused_tensors_are_among_what_is_tested(tmp_path):
    base = saved("granitemoe", tmp_path / "base")

    fused = fused_keys(Checkpoint(base).empty_model())

    assert {split_row(key)[0] for key in delta_of(base).tensors} & fused


def test_a_model_loaded_in_another_type_than_its_files_are_in_has_the_digest_of_that_type(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    model = loaded(base).to(torch.bfloat16)
    delta = Delta.of(model, some_change(model), model_digest(model))
    with delta.applied_to(model):
        expected = model_digest(model)

    assert digest_after(base, delta) == expected


def test_what_the_checkpoint_holds_beyond_the_model_has_no_part_in_it(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta, index = delta_of(base), json.loads((base / INDEX).read_text())
    expected = digest_after(base, delta)
    save_file({"more": torch.ones(2)}, base / "more.safetensors")
    index["weight_map"]["more"] = "more.safetensors"
    (base / INDEX).write_text(json.dumps(index))

    assert digest_after(base, delta) == expected


def test_an_empty_delta_leaves_the_base(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta = replace(delta_of(base), tensors={})

    assert digest_after(base, delta) == delta.base


def test_another_base_is_refused(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")

    with pytest.raises(InputError, match=r"^This delta belongs to base model 0{12}; "):
        digest_after(base, replace(delta_of(base), base="0" * 64))


def test_a_tensor_that_the_base_has_not_is_refused(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta = replace(delta_of(base), tensors={"model.nowhere": torch.zeros(1)})

    with pytest.raises(InputError, match=r"holds no model\.nowhere, which the delta changes\.$"):
        digest_after(base, delta)
