"""What DVC leaves to the commands it runs; `tests/workflow` kills a real `dvc repro`."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import AbstractDataset, DataCatalog

from kedro_dvc import safety as hooks
from kedro_dvc.files import WorkflowError
from kedro_dvc.safety import SafeOutputs, SharingCatalog, sharing
from seuf.datasets.records import RecordsDataset


@pytest.fixture
def saving(tmp_path):
    """The hook, and a file in DVC's cache that the data set's path is linked to."""
    cached, path = tmp_path / "cached", tmp_path / "data.jsonl"
    cached.write_text("of DVC")
    hook = SafeOutputs()
    hook.after_catalog_created(DataCatalog({"data": RecordsDataset(str(path))}))
    return hook, cached, path


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_into_the_cache_is_replaced_and_not_written_through(saving, link):
    hook, cached, path = saving
    getattr(path, link)(cached)

    hook.before_dataset_saved("data", [])
    path.write_text("new")

    assert cached.read_text() == "of DVC"


def test_a_file_of_its_own_is_left_to_the_data_set(saving):
    hook, _, path = saving
    path.write_text("old")

    hook.before_dataset_saved("data", [])

    assert path.read_text() == "old"


class Large(RecordsDataset):
    """Says that it will write a gigabyte."""

    def size_of(self, data: object) -> int:
        """Return a gigabyte."""
        return 10**9


@pytest.mark.parametrize(("free", "enough"), [(2 * 10**9, True), (2 * 10**9 - 1, False)])
def test_an_output_that_the_disk_cannot_hold_is_not_begun(tmp_path, monkeypatch, free, enough):
    """The output and DVC's copy of it: two gigabytes."""
    asked = []
    monkeypatch.setattr(
        hooks.shutil, "disk_usage", lambda place: asked.append(place) or SimpleNamespace(free=free)
    )
    hook = SafeOutputs()
    hook.after_catalog_created(DataCatalog({"data": Large(str(tmp_path / "new/data.jsonl"))}))

    if enough:
        hook.before_dataset_saved("data", [])
    else:
        with pytest.raises(WorkflowError, match=r"takes 1.0 GB, .* 2.0 GB are free"):
            hook.before_dataset_saved("data", [])
    assert asked == [tmp_path]


class Numbers(AbstractDataset[list[int], list[int]]):
    """A file of numbers that counts how often it was read."""

    reads = 0

    def __init__(self, filepath: str, keep: bool = True) -> None:
        self._filepath, self.metadata = Path(filepath), {"dvc": {"keep": keep}}

    def load(self) -> list[int]:
        Numbers.reads += 1
        return [int(line) for line in self._filepath.read_text().split()]

    def save(self, data: list[int]) -> None:
        self._filepath.write_text(" ".join(map(str, data)))

    def fingerprint(self, data: list[int]) -> int:
        return sum(data)

    def _describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make the catalog of another stage: of new data sets on the same files."""
    monkeypatch.setattr(Numbers, "reads", 0)
    for name in ("a", "b"):
        (tmp_path / name).write_text("1 2 3")

    def catalog() -> SharingCatalog:
        kept = {name: Numbers(str(tmp_path / name)) for name in ("a", "b")}
        return SharingCatalog({**kept, "other": Numbers(str(tmp_path / "a"), keep=False)})

    return catalog


def test_the_second_stage_gets_what_the_first_has_loaded(make):
    with sharing():
        first, second = make().load("a"), make().load("a")

    assert first is second
    assert Numbers.reads == 1


def test_each_stage_of_its_own_process_loads(make):
    assert make().load("a") is not make().load("a")
    assert Numbers.reads == 2


def test_what_is_not_to_be_kept_is_loaded(make):
    with sharing():
        make().load("other")
        make().load("other")

    assert Numbers.reads == 2


def test_a_file_that_was_written_is_loaded_again(make, tmp_path):
    with sharing():
        make().load("a")
        (tmp_path / "a").write_text("4 5")

        assert make().load("a") == [4, 5]


def test_data_that_a_stage_wrote_to_are_loaded_again(make):
    with sharing():
        make().load("a").append(4)

        assert make().load("a") == [1, 2, 3]


def test_one_at_a_time_is_kept(make):
    """Two models may not fit."""
    with sharing():
        for name in ("a", "b", "a"):
            make().load(name)

    assert Numbers.reads == 3


def test_nothing_is_kept_after_the_run(make):
    with sharing():
        first = make().load("a")
    with sharing():
        assert make().load("a") is not first


def test_a_file_in_a_folder_counts(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "part").write_text("1")
    os.utime(folder / "part", (0, 0))  # clocks of file systems may tick only each hundredth second
    monkeypatch.setattr(Numbers, "load", lambda self: (folder / "part").read_text())
    monkeypatch.setattr(Numbers, "fingerprint", lambda self, data: data)
    with sharing():
        SharingCatalog({"a": Numbers(str(folder))}).load("a")
        (folder / "part").write_text("2")

        assert SharingCatalog({"a": Numbers(str(folder))}).load("a") == "2"
