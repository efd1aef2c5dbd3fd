"""Whole checkpoints, made of a base and a delta, and taken apart again."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from seuf.inputs import InputError
from seuf.moe.checkpoints import INDEX, Checkpoint
from seuf.moe.deltas import export
from seuf.moe.names import split_row
from tests.moe.folders import delta_of, loaded, saved


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


def test_another_base_is_refused(tmp_path):
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


def test_a_folder_that_exists_is_not_written_to(tmp_path):
    base = saved("mixtral", tmp_path / "base")

    with pytest.raises(InputError, match="exists: name a folder that does not"):
        export(base, delta_of(base), base)


def test_nothing_is_left_if_writing_fails(tmp_path, monkeypatch):
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
