"""Every change that was not promised fails, and is named with its expert and layer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from seuf.audit import FAIL, PASS
from seuf.audit.weights import check_weights, unlearned_digest
from seuf.inputs import InputError
from seuf.moe.checkpoints import INDEX, Checkpoint, folder_digest, fused_keys
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.names import split_row
from seuf.unlearning.settings import Method
from tests.audit.folders import EXPERT, EXPERTS, METHOD, flip, own, unlearned
from tests.tiny import delta_of, loaded, saved, some_change


@pytest.fixture(params=sorted(EXPERT))
def model_type(request):
    """An architecture that fuses experts in its checkpoints, and one that does not."""
    return request.param


@pytest.fixture
def done(model_type, tmp_path):
    """A base, its delta and the exported checkpoint."""
    return unlearned(model_type, tmp_path)


def failures(checks):
    """Return what has failed, by name."""
    return {check.name: check.text for check in checks if check.result == FAIL}


def test_what_a_method_has_made_passes_and_is_told_tensor_by_tensor(done):
    checks, told = check_weights(done.base, done.delta, METHOD, EXPERTS)

    assert {check.name: check.result for check in checks} == dict.fromkeys(
        ("finite", "base", "weights"), PASS
    )
    assert [tensor["key"] for tensor in told["tensors"]] == sorted(done.delta.tensors)
    assert all(tensor["largest"] == pytest.approx(0.5, abs=1e-6) for tensor in told["tensors"])
    assert told["changed"] == sum(tensor.numel() for tensor in done.delta.tensors.values())
    base = Checkpoint(done.base)
    assert told["total"] == sum(base[key].numel() for key in base.files)


def test_the_exported_checkpoint_passes_too_and_tells_the_same(done):
    checks, told = check_weights(done.base, done.delta, METHOD, EXPERTS, done.out)

    assert {check.name for check in checks if check.result == PASS} == {
        "finite",
        "base",
        "weights",
        "exported",
    }
    assert told == check_weights(done.base, done.delta, METHOD, EXPERTS)[1]


def test_one_bit_of_another_expert_in_an_exported_checkpoint_is_named(done, model_type):
    key = EXPERT[model_type].format(3)
    flip(done.out, key)

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS, done.out)

    found = failures(checks)
    assert found.keys() == {"weights", "exported"}
    assert all(f"{key} (expert 3 of layer 1)" in text for text in found.values())


def test_one_bit_of_the_selected_expert_in_an_exported_checkpoint_is_named(done, model_type):
    """It may change, but not otherwise than the delta says."""
    key = EXPERT[model_type].format(2)
    flip(done.out, key)

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS, done.out)

    assert failures(checks).keys() == {"exported"}
    assert f"{key} (expert 2 of layer 1) is not what base and delta" in failures(checks)["exported"]


def test_one_bit_of_the_delta_parts_it_from_the_exported_checkpoint(done, model_type):
    key = EXPERT[model_type].format(2)
    done.delta.tensors[key].view(torch.int32)[0, 0] ^= 1

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS, done.out)

    assert failures(checks).keys() == {"exported"}
    assert key in failures(checks)["exported"]


def test_a_delta_that_changes_another_expert_is_named_with_expert_and_layer(done, model_type):
    key = EXPERT[model_type].format(0)
    mine = done.delta.tensors[EXPERT[model_type].format(2)]
    done.delta.tensors[key] = mine.clone()

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS)

    assert failures(checks) == {
        "weights": f"{key} (expert 0 of layer 1) has changed, which the method may not change"
    }


def test_a_swapped_base_is_named_even_if_the_delta_fits_it(done, model_type):
    flip(done.base, EXPERT[model_type].format(0))

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS)

    assert failures(checks).keys() == {"base"}
    assert f"not {done.delta.base[:12]}" in failures(checks)["base"]
    assert "swapped base" in failures(checks)["base"]


def test_a_base_of_another_architecture_is_named_as_swapped(done, tmp_path):
    other = saved("mixtral", tmp_path / "mixtral")

    checks, told = check_weights(other, done.delta, METHOD, EXPERTS)

    assert "swapped base" in failures(checks)["base"]
    assert told == {"tensors": []}


@pytest.mark.parametrize("where", ["base", "out"])
def test_a_truncated_file_is_named(done, where):
    folder = getattr(done, where)
    file = own(sorted(folder.glob("*.safetensors"))[0])
    file.write_bytes(file.read_bytes()[:-1])

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS, done.out)

    assert f"{file} is damaged" in failures(checks)["weights"]


def test_a_number_that_is_not_finite_is_named(done, model_type):
    key = EXPERT[model_type].format(2)
    done.delta.tensors[key][0, 0] = float("nan")

    checks, told = check_weights(done.base, done.delta, METHOD, EXPERTS)

    assert key in failures(checks)["finite"]
    assert all(tensor["largest"] < 1 for tensor in told["tensors"])  # JSON knows no NaN


def test_where_a_row_of_the_router_is_promised_another_row_is_not(model_type, tmp_path):
    """The delta holds the router as a whole: of its four rows the expert's may differ."""
    done = unlearned(model_type, tmp_path, router="none")
    gate = {
        "qwen2_moe": "model.layers.1.mlp.gate.weight",
        "granitemoe": "model.layers.1.block_sparse_moe.router.layer.weight",
    }[model_type]
    method = METHOD.model_copy(update={"router": "row"})
    for row in (2, 3):
        done.delta.tensors[gate] = Checkpoint(done.base)[gate].clone()
        done.delta.tensors[gate][row] += 1

        checks, _ = check_weights(done.base, done.delta, method, EXPERTS)

        bad = f"{gate}[3] (router of layer 1) has changed, which the method may not change"
        assert failures(checks) == ({} if row == 2 else {"weights": bad})


def test_a_method_that_changes_nothing_must_have_changed_nothing(done):
    checks, _ = check_weights(done.base, done.delta, Method(scope="nothing"), [])

    more = len(done.delta.tensors) - 1
    assert failures(checks)["weights"].endswith(f"may not change, and {more} more")


def test_an_expert_that_is_not_there_fails(done):
    checks, _ = check_weights(done.base, done.delta, METHOD, [(1, 9)])

    assert failures(checks) == {"weights": "The model has no expert 9 in layer 1."}


def test_a_key_cannot_write_a_line_of_its_own(done):
    """Nor a code that a terminal would obey."""
    done.delta.tensors["x\nPASS  weights \x1b[2K"] = torch.ones(2)

    checks, _ = check_weights(done.base, done.delta, METHOD, EXPERTS)

    assert all(check.text.isprintable() for check in checks)
    assert "tensor x\\nPASS  weights \\x1b[2K is not in" in failures(checks)["weights"]


# In checkpoints of granitemoe all experts of a layer are one tensor, in the others each is its own.
TYPES = ["qwen2_moe", "granitemoe", "gpt_oss"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", TYPES)
def test_the_unlearned_digest_is_that_of_the_model_with_the_delta(model_type, dtype, tmp_path):
    base = saved(model_type, tmp_path / "base", dtype)
    model, delta = loaded(base), delta_of(base)
    with delta.applied_to(model):
        expected = model_digest(model)

    assert unlearned_digest(base, delta) == expected
    assert expected != delta.base


@pytest.mark.parametrize("model_type", TYPES)
def test_the_unlearned_digest_is_that_of_the_exported_checkpoint(model_type, tmp_path):
    base = saved(model_type, tmp_path / "base")
    delta = delta_of(base)

    export(base, delta, tmp_path / "out")

    assert unlearned_digest(base, delta) == folder_digest(tmp_path / "out", delta.dtypes)


def test_rows_of_fused_tensors_are_among_the_tested_deltas(tmp_path):
    base = saved("granitemoe", tmp_path / "base")

    fused = fused_keys(Checkpoint(base).empty_model())

    assert {split_row(key)[0] for key in delta_of(base).tensors} & fused


def test_a_model_loaded_in_another_type_than_its_files_are_in_has_the_digest_of_that_type(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    model = loaded(base).to(torch.bfloat16)
    delta = Delta.of(model, some_change(model), model_digest(model))
    with delta.applied_to(model):
        expected = model_digest(model)

    assert unlearned_digest(base, delta) == expected


def test_what_the_checkpoint_holds_beyond_the_model_has_no_part_in_it(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta, index = delta_of(base), json.loads((base / INDEX).read_text())
    expected = unlearned_digest(base, delta)
    save_file({"more": torch.ones(2)}, base / "more.safetensors")
    index["weight_map"]["more"] = "more.safetensors"
    (base / INDEX).write_text(json.dumps(index))

    assert unlearned_digest(base, delta) == expected


def test_an_empty_delta_leaves_the_digest_of_the_base(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta = replace(delta_of(base), tensors={})

    assert unlearned_digest(base, delta) == delta.base


def test_the_digest_with_the_delta_of_another_base_is_refused(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")

    with pytest.raises(InputError, match=r"^This delta belongs to base model 0{12}; "):
        unlearned_digest(base, replace(delta_of(base), base="0" * 64))


def test_the_digest_with_a_tensor_that_the_base_lacks_is_refused(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta = replace(delta_of(base), tensors={"model.nowhere": torch.zeros(1)})

    with pytest.raises(InputError, match=r"tensor model\.nowhere is not in "):
        unlearned_digest(base, delta)
