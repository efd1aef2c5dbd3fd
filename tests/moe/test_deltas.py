"""A delta puts a change on a model, takes it off without a trace, and makes a checkpoint of it."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from seuf.inputs import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.checkpoints import INDEX, Checkpoint
from seuf.moe.deltas import Delta, changed_share, export
from seuf.moe.digests import model_digest
from seuf.moe.names import split_row
from tests.tiny import (
    bits,
    changed_names,
    delta_of,
    last_layer,
    loaded,
    saved,
    some_change,
    tiny_inputs,
    tiny_model,
)

WRITE = """
import sys
from pathlib import Path
from tests.moe.test_deltas import some_delta
from tests.tiny import tiny_model
some_delta(tiny_model("qwen2_moe")).save(Path(sys.argv[1]))
"""


def some_delta(model: nn.Module) -> Delta:
    """Return the delta of such a change."""
    delta = Delta.of(model, some_change(model), model_digest(model))
    return replace(delta, about={"seed": 3, "experts": [[1, 1]]})


def test_a_saved_delta_is_loaded_as_it_was(model, tmp_path):
    delta = some_delta(model)

    delta.save(tmp_path / "delta.safetensors")
    loaded = Delta.load(tmp_path / "delta.safetensors")

    assert (loaded.base, loaded.about, loaded.dtypes) == (delta.base, delta.about, delta.dtypes)
    assert loaded.tensors.keys() == delta.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], t) for name, t in delta.tensors.items())


def test_a_delta_can_be_applied_again_and_again(model):
    delta, before, states = some_delta(model), bits(model), []

    for _ in range(2):
        with delta.applied_to(model):
            states.append(bits(model))

    assert all(torch.equal(states[0][name], states[1][name]) for name in before)
    assert model_digest(model) == delta.base


def test_a_second_delta_goes_on_top_of_the_first_and_comes_off_before_it():
    model = tiny_model("olmoe")
    before, first = bits(model), some_delta(model)
    first.apply(model)
    between = bits(model)
    second = Delta.of(model, some_change(model, expert=2, seed=1), model_digest(model))
    second.apply(model)

    with pytest.raises(InputError, match="not the last one"):
        first.revert(model)
    second.revert(model)
    assert changed_names(model, between) == set()
    first.revert(model)
    assert changed_names(model, before) == set()


def test_a_delta_that_was_not_applied_cannot_be_reverted(model):
    with pytest.raises(InputError, match="not the last one that was applied"):
        some_delta(model).revert(model)


def test_after_an_exception_the_base_is_bit_identical(model):
    before = bits(model)

    with pytest.raises(ZeroDivisionError), some_delta(model).applied_to(model):
        _ = 1 / 0

    assert changed_names(model, before) == set()


@torch.no_grad()
def test_a_judge_that_writes_to_the_base_is_noticed(model):
    """What the delta has put in is taken out all the same; the rest is named."""
    delta, before, weight = some_delta(model), bits(model), model.get_input_embeddings().weight
    name = next(name for name, parameter in model.named_parameters() if parameter is weight)

    with (
        pytest.raises(RuntimeError, match=f"{delta.base[:12]} was changed .*: {name}"),
        delta.applied_to(model),
    ):
        weight[0, 0] += 1

    assert changed_names(model, before) == {name}
    with pytest.raises(InputError, match="belongs to base model"):
        delta.apply(model)


@torch.no_grad()
def test_another_expert_that_was_written_to_is_noticed_by_revert():
    """It lies in the very tensor that the delta changes another row of."""
    model = tiny_model("mixtral")
    delta, experts = some_delta(model), moe_layers(model)[-1].experts
    delta.apply(model)
    experts.down_proj[2, 0, 0] += 1

    with pytest.raises(RuntimeError, match=r"in 1 tensors: .*experts\.down_proj"):
        delta.revert(model)


@torch.no_grad()
def test_what_is_written_where_the_delta_is_goes_with_it():
    model = tiny_model("mixtral")
    delta, before = some_delta(model), bits(model)

    with delta.applied_to(model):
        moe_layers(model)[-1].experts.down_proj[1] += 1

    assert changed_names(model, before) == set()


def test_the_same_delta_gives_the_same_bytes_whatever_the_order_of_its_tensors(tmp_path):
    delta = some_delta(tiny_model("qwen2_moe"))
    turned = replace(delta, tensors=dict(reversed(delta.tensors.items())))

    delta.save(tmp_path / "one")
    turned.save(tmp_path / "other")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path):
    root = Path(__file__).parents[2]
    some_delta(tiny_model("qwen2_moe")).save(tmp_path / "here")

    command = [sys.executable, "-c", f"import seuf\n{WRITE}", str(tmp_path / "there")]
    subprocess.run(command, check=True, cwd=root)

    here, there = (hashlib.sha256((tmp_path / n).read_bytes()) for n in ("here", "there"))
    assert here.hexdigest() == there.hexdigest()


def test_another_base_is_refused(model):
    delta, other = some_delta(model), tiny_model(model.config.model_type, seed=1)

    with (
        pytest.raises(InputError, match=f"belongs to base model {delta.base[:12]}"),
        delta.applied_to(other),
    ):
        pass


def test_a_safetensors_file_without_our_header_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(2)}, path)

    with pytest.raises(InputError, match="is not a SEUF delta"):
        Delta.load(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "delta.safetensors"
    path.write_text("not a tensor in sight")

    with pytest.raises(InputError, match="is not a safetensors file"):
        Delta.load(path)


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "[]",
        "{}",
        '{"base": "b", "colour": "red"}',
        '{"base": 5}',
        '{"base": "b", "dtypes": null}',
        '{"base": "b", "dtypes": {"default": 1}}',
        '{"base": "b", "about": []}',
        "[" * 100_000,
    ],
    ids=range(9),
)
def test_a_header_that_save_did_not_write_is_refused(tmp_path, header):
    path = tmp_path / "delta.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata={"seuf": header})

    with pytest.raises(InputError, match="its 'seuf' header is damaged"):
        Delta.load(path)


def test_a_delta_that_is_missing_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match="Cannot read the delta"):
        Delta.load(tmp_path / "delta.safetensors")


def test_nobody_but_the_owner_reads_a_delta(tmp_path):
    path = tmp_path / "delta"

    Delta({}, "base").save(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_left_if_writing_fails(tmp_path):
    """A folder stands where the file should go, so the last step, the renaming, fails."""
    (tmp_path / "delta" / "in_the_way").mkdir(parents=True)

    with pytest.raises(OSError, match="delta"):
        some_delta(tiny_model("qwen2_moe")).save(tmp_path / "delta")

    assert [path.name for path in tmp_path.iterdir()] == ["delta"]


def test_an_empty_delta_is_a_delta(tmp_path):
    model = tiny_model("qwen2_moe")
    Delta({}, model_digest(model)).save(tmp_path / "delta")

    loaded = Delta.load(tmp_path / "delta")

    assert loaded.tensors == {}
    with loaded.applied_to(model):
        pass


def test_the_lowest_layer_is_that_of_the_lowest_change(model):
    names = {module: name for name, module in model.named_modules()}
    embeddings = f"{names[model.get_input_embeddings()]}.weight"
    low = {embeddings: model.get_input_embeddings().weight.detach() + 1}

    assert some_delta(model).lowest_layer(model) == last_layer(model)
    assert Delta.of(model, some_change(model) | low, "").lowest_layer(model) == 0
    assert Delta({}, "").lowest_layer(model) == len(model.get_decoder().layers) - 1


def test_changed_share_counts_the_changed_tensors():
    """A Linear(3, 4) has 12 + 4 parameters; row 1 of its weight has 3: 3/16."""
    layer = nn.Linear(3, 4)

    assert changed_share(layer, Delta({"weight[1]": torch.zeros(3)}, base="")) == 3 / 16


def test_files_that_the_delta_does_not_touch_are_linked_and_the_others_are_not(tmp_path):
    base = saved("qwen2_moe", tmp_path / "base")
    delta, files = delta_of(base), Checkpoint(base).files
    touched = {files[split_row(key)[0]] for key in delta.tensors}

    export(base, delta, tmp_path / "out")

    assert set(files.values()) - touched
    for name in set(files.values()):
        assert (base / name).samefile(tmp_path / "out" / name) == (name not in touched)
    for name in ("config.json", INDEX):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
        assert not (base / name).samefile(tmp_path / "out" / name)


def test_an_exported_checkpoint_has_exactly_the_deltas_tensors_changed(tmp_path):
    base = saved("granitemoe", tmp_path / "base")
    delta = delta_of(base)

    export(base, delta, tmp_path / "out")

    before, after = Checkpoint(base), Checkpoint(tmp_path / "out")
    changed = {key for key in before.files if not torch.equal(before[key], after[key])}
    assert changed == {split_row(key)[0] for key in delta.tensors}
    for key, value in delta.tensors.items():
        name, row = split_row(key)
        assert torch.equal(after[name] if row is None else after[name][row], value)


def test_links_of_the_hub_cache_are_followed(tmp_path):
    """The hub's folders hold symbolic links to files elsewhere."""
    blobs, base = saved("mixtral", tmp_path / "blobs"), tmp_path / "snapshot"
    base.mkdir()
    for path in blobs.iterdir():
        (base / path.name).symlink_to(path)

    export(base, delta_of(base), tmp_path / "out")

    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert loaded(tmp_path / "out")


def test_an_export_of_another_base_is_refused(tmp_path):
    """One bit of one tensor."""
    base = saved("mixtral", tmp_path / "base")
    delta = delta_of(base)
    file = base / Checkpoint(base).files["lm_head.weight"]
    tensors = load_file(file)
    tensors["lm_head.weight"].view(torch.int32)[0, 0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})

    with pytest.raises(InputError, match=f"belongs to base model {delta.base[:12]}"):
        export(base, delta, tmp_path / "out")

    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["lm_head.weight", "config.json", INDEX])
def test_a_damaged_base_is_refused_in_one_line(tmp_path, name):
    base = saved("mixtral", tmp_path / "base")
    delta = delta_of(base)
    file = Checkpoint(base).files.get(name, name)
    (base / file).write_text("{")

    with pytest.raises(InputError, match="Cannot read the base model") as raised:
        export(base, delta, tmp_path / "out")

    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_exists_is_not_written_to(tmp_path):
    base = saved("mixtral", tmp_path / "base")

    with pytest.raises(InputError, match="exists: name a folder that does not"):
        export(base, delta_of(base), base)


def test_nothing_is_left_if_an_export_fails(tmp_path, monkeypatch):
    base = saved("mixtral", tmp_path / "base")
    delta = delta_of(base)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("seuf.moe.checkpoints.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        export(base, delta, tmp_path / "out")

    assert not list(tmp_path.glob("out*"))


def test_a_folder_of_the_users_beside_it_is_left_alone(tmp_path):
    base = saved("mixtral", tmp_path / "base")
    (tmp_path / "out.tmp").mkdir()

    export(base, delta_of(base), tmp_path / "out")

    assert {path.name for path in tmp_path.iterdir()} == {"base", "out", "out.tmp"}


PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"


@torch.no_grad()
def test_ten_lines_load_the_unlearned_model(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "base_model")
    delta = Delta.of(model, some_change(model), model_digest(model))
    delta.save(tmp_path / "delta.safetensors")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}

    exec(_loader(), found)

    inputs = tiny_inputs()
    logits = found["model"].eval()(**inputs).logits
    assert not torch.equal(logits, model(**inputs).logits)
    with delta.applied_to(model):
        assert torch.equal(logits, model(**inputs).logits)


def _loader() -> str:
    blocks = PAGE.read_text(encoding="utf-8").split("```python")[1:]
    return next(b for block in blocks if "load_file" in (b := block.partition("```")[0]))


def test_a_delta_of_which_a_tensor_does_not_fit_changes_nothing(language_model):
    model = language_model.model
    before, digest = bits(model), model_digest(model)
    tensors = {"model.embed_tokens.weight": torch.zeros(300, 32)}
    tensors["model.layers.1.mlp.gate.weight"] = torch.zeros(3, 32)

    with pytest.raises(InputError, match="do not fit the model"):
        Delta(tensors, digest).apply(model)

    assert changed_names(model, before) == set()
    Delta({}, digest).apply(model)
