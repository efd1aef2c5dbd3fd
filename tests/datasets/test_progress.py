"""The file in which a stage keeps what it has come to."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
import torch
from kedro.io import DatasetError

from seuf.datasets import progress as module
from seuf.datasets.progress import FileProgress, ProgressDataset
from seuf.unlearning.resumption import Kept

KEY = "a" * 64
FACTS = {"rate": 1, "balance": 0.1 + 0.2, "log": [{"loss": float("inf"), "stopped": None}]}


def kept() -> Kept:
    """Return tensors of each kind that there is, two of them parts of one."""
    whole = torch.arange(8, dtype=torch.float32).view(2, 4)
    tensors = {
        "one": whole[0],
        "other": whole[1],
        "across": whole.t(),
        "coarse": torch.full((3,), 0.1, dtype=torch.bfloat16),
        "step": torch.tensor(7.0),
    }
    return Kept(tensors, FACTS)


@pytest.fixture
def progress(tmp_path) -> FileProgress:
    """Progress that has been saved."""
    saved = FileProgress(tmp_path / "method")
    saved.save(KEY, kept())
    return saved


def test_what_is_saved_comes_back_to_the_bit(progress):
    found = FileProgress(progress.path.parent).load(KEY)

    assert found.facts == FACTS
    assert found.tensors.keys() == kept().tensors.keys()
    for name, tensor in kept().tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)


def test_only_its_owner_can_read_it(progress):
    assert stat.S_IMODE(progress.path.stat().st_mode) == 0o600


def test_nothing_else_lies_beside_it_and_nothing_is_left_of_it(progress):
    assert [path.name for path in progress.path.parent.iterdir()] == ["unfinished.safetensors"]

    progress.delete()
    progress.delete()

    assert list(progress.path.parent.iterdir()) == []
    assert progress.load(KEY) is None


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_passed_over(progress, caplog, length):
    progress.path.write_bytes(progress.path.read_bytes()[:length])

    assert progress.load(KEY) is None
    assert [r.message for r in caplog.records if "cannot be read" in r.message]


def test_a_file_of_another_kind_is_passed_over(progress, caplog):
    from safetensors.torch import save_file

    save_file({"one": torch.zeros(2)}, progress.path)

    assert progress.load(KEY) is None
    assert "cannot be read" in caplog.text


def test_another_key_starts_afresh(progress, caplog):
    assert progress.load("b" * 64) is None
    assert caplog.messages == [f"{progress.path} is of other data or settings: starting afresh"]


def test_other_questions_start_afresh(progress, caplog):
    same, other = (progress.given(["who?"], {"metric": m}) for m in ("acc", "acc_norm"))
    same.save(KEY, kept())

    assert same.load(KEY) is not None
    assert other.load(KEY) is None
    assert caplog.messages == [f"{progress.path} is of other questions: starting afresh"]


def test_other_code_and_libraries_start_afresh(progress, caplog, monkeypatch):
    monkeypatch.setattr(module, "_code", lambda: "changed")
    monkeypatch.setattr(module, "version", lambda name: "0.0")

    assert progress.load(KEY) is None
    assert caplog.messages == [f"{progress.path} is of other code and libraries: starting afresh"]


def test_the_code_is_that_of_the_rooms_that_decide_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SOURCE", tmp_path)
    digests = []
    for path in ("moe/one.py", "unlearning/deep/one.py", "reporting/one.py", "moe/notes.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1")
        digests.append(module._code.__wrapped__())

    assert len(set(digests)) == 2
    assert digests[1:] == [digests[1]] * 3


def test_the_time_of_killed_processes_counts(progress, monkeypatch):
    """The first has taken 100 s when it saves; the second 5 s until it is asked."""
    clock = iter([0.0, 100.0, 1000.0, 1005.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    first = progress.given()
    first.save(KEY, kept())
    second = FileProgress(progress.path.parent, first.besides)

    second.load(KEY)

    assert second.seconds() == 105


def test_a_disk_that_takes_nothing_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "method").write_text("in the way")

    FileProgress(tmp_path / "method").save(KEY, kept())

    assert "What this run has come to cannot be kept" in caplog.text


def test_of_the_data_set_a_node_gets_its_own_file():
    dataset = ProgressDataset(folder="models")

    assert dataset.load().of("seuf_ga").path == Path("models/seuf_ga/unfinished.safetensors")


def test_no_node_writes_it_as_an_output():
    with pytest.raises(DatasetError, match="no node's output"):
        ProgressDataset(folder="data").save([])
