"""What lies beside the weights of an exported checkpoint: the base's, or it fails by name."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seuf.audit import FAIL, NOTE
from seuf.audit.exported import check_files, files_without_digest, open_checkpoint
from seuf.inputs import InputError
from seuf.moe.checkpoints import INDEX
from tests.audit.folders import own, unlearned


@pytest.fixture
def done(tmp_path):
    """A base and an exported checkpoint."""
    return unlearned("qwen2_moe", tmp_path)


def failures(done):
    """Return what has failed."""
    return [check.text for check in check_files(done.base, done.out) if check.result == FAIL]


def test_an_export_with_a_page_and_a_signature_passes(done):
    (done.out / "model.sig").write_text("{}")
    (done.out / "statement.json.sig").write_text("{}")

    assert failures(done) == []


def test_a_page_is_said_not_to_be_checked(done):
    """The scores that it shows could be any."""
    (done.out / "README.md").write_text("forgets all, keeps all")

    said = [check.text for check in check_files(done.base, done.out) if check.result == NOTE]

    assert said == ["README.md is not compared: what it says is not checked"]


def test_a_file_of_the_base_that_no_record_covers_is_named(done):
    """DVC passes over `__pycache__`, so the folder's digest in dvc.lock is the same with it."""
    before = files_without_digest(done.base)
    (done.base / "__pycache__").mkdir()
    (done.base / "__pycache__/x.py").write_text("import os")

    after = files_without_digest(done.base)

    assert before == []
    assert [check.result for check in after] == [NOTE]
    assert after[0].text.endswith("as DVC ignores __pycache__: '__pycache__/x.py'")


@pytest.mark.parametrize("name", ["evil.sig", "deep/model.sig", "deep/x.PY.sig", "deep/README.md"])
def test_a_page_and_signatures_lie_nowhere_else(done, name):
    (done.out / name).parent.mkdir(exist_ok=True)
    (done.out / name).write_text("import os")

    assert failures(done) == [f"{name!r} is not in the base"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_file_that_is_not_the_bases_to_the_byte_is_named(done, name):
    with (done.out / name).open("a") as file:
        file.write(" ")

    assert failures(done) == [f"{name!r} differs from the base's"]


def test_a_file_that_the_base_has_and_a_model_is_loaded_with_may_not_be_missing(done):
    (done.out / "tokenizer.json").unlink()

    assert failures(done) == ["'tokenizer.json' of the base is missing"]


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "adapter_config.json", "deep/x.json", ".git/config", ".cache/x"]
)
def test_a_file_that_the_base_does_not_have_is_named(done, name):
    (done.out / name).parent.mkdir(exist_ok=True)
    (done.out / name).write_text("{}")

    assert failures(done) == [f"{name!r} is not in the base"]


class Evil:
    """Makes a file as soon as its pickle is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "a.PT",
        "a.pth",
        "a.pkl",
        "a.ckpt",
        "deep/b.py",
        "pytorch_model",
        "__pycache__/b.pyc",
    ],
)
def test_what_could_be_code_or_a_pickle_fails_by_name_and_is_not_loaded(done, tmp_path, name):
    """Even if the base has the same file."""
    for folder in (done.base, done.out):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))

    found = failures(done)

    assert [f"{name!r} could hold code, or a pickle, which can run code: remove it"] == found
    assert not (tmp_path / "ran").exists()


def test_the_index_of_pickles_that_are_not_there_is_a_file_like_others(done):
    """Many repositories of the hub have one, and an export copies it."""
    for folder in (done.base, done.out):
        (folder / "pytorch_model.bin.index.json").write_text("{}")

    assert failures(done) == []


def test_a_link_that_leads_out_of_the_folder_fails_even_to_the_same_bytes(done):
    path = done.out / "tokenizer.json"
    path.unlink()
    path.symlink_to(done.base / "tokenizer.json")

    assert failures(done) == [f"'tokenizer.json' is a link out of {done.out}"]


def test_a_link_to_weights_or_to_a_folder_elsewhere_fails(done):
    name = sorted(done.out.glob("*.safetensors"))[0].name
    (done.out / name).unlink()
    (done.out / name).symlink_to(done.base / name)
    (done.out / "more").symlink_to(done.base)

    found = failures(done)

    assert f"{name!r} is a link out of {done.out}" in found
    assert f"'more' is a link out of {done.out}" in found


def test_what_is_no_file_fails_and_is_not_open_checkpoint(done):
    os.mkfifo(done.out / "LICENSE")

    assert failures(done) == ["'LICENSE' is not a regular file, or is a broken link"]


@pytest.mark.parametrize("where", ["../base/{}", "/etc/{}", "sub/{}", "..", "pytorch_model.bin"])
def test_an_index_that_leads_out_of_the_folder_fails(done, where):
    own(done.out / INDEX)
    index = json.loads((done.out / INDEX).read_text())
    key, name = sorted(index["weight_map"].items())[0]
    index["weight_map"][key] = where.format(name)
    (done.out / INDEX).write_text(json.dumps(index))

    assert any(f"names {where.format(name)!r}, not a " in text for text in failures(done))
    with pytest.raises(InputError, match=r"not a \.safetensors file in it"):
        open_checkpoint(done.out)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_fails(done, text):
    own(done.out / INDEX).write_text(text)

    assert len(failures(done)) == 1
    assert str(done.out) in failures(done)[0]


def test_a_truncated_file_fails_by_name(done):
    file = own(sorted(done.out.glob("*.safetensors"))[-1])
    file.write_bytes(file.read_bytes()[:-1])

    assert len(failures(done)) == 1
    assert failures(done)[0].startswith(f"{file} is damaged: ")


def test_a_single_file_that_is_truncated_fails_by_name(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x08")

    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        open_checkpoint(tmp_path)


def test_weights_beside_those_that_the_index_names_fail(done):
    """Plain transformers would load `model.safetensors`, and never see the index."""
    save_file({"x": torch.ones(2)}, done.out / "model.safetensors")

    assert failures(done) == ["'model.safetensors' holds weights that the checkpoint does not name"]


def test_a_tensor_that_the_index_does_not_name_fails(done):
    """A loader that reads whole files would take it."""
    index = json.loads((done.out / INDEX).read_text())
    name = index["weight_map"].pop("lm_head.weight")
    own(done.out / INDEX).write_text(json.dumps(index))

    assert failures(done) == [
        f"{done.out / name} and the index disagree on tensor 'lm_head.weight'."
    ]
