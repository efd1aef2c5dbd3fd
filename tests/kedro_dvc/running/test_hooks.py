"""Tests of what DVC leaves to the commands it runs; `tests/workflow` kills a real `dvc repro`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kedro.io import DataCatalog

from kedro_dvc import safety as hooks
from kedro_dvc.files import WorkflowError
from kedro_dvc.safety import Cleanliness
from seuf.datasets.records import RecordsDataset


@pytest.fixture
def saving(tmp_path):
    """The hook, and a file in DVC's cache that the data set's path is linked to."""
    cached, path = tmp_path / "cached", tmp_path / "data.jsonl"
    cached.write_text("of DVC")
    hook = Cleanliness()
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
    hook = Cleanliness()
    hook.after_catalog_created(DataCatalog({"data": Large(str(tmp_path / "new/data.jsonl"))}))

    if enough:
        hook.before_dataset_saved("data", [])
    else:
        with pytest.raises(WorkflowError, match=r"takes 1.0 GB, .* 2.0 GB are free"):
            hook.before_dataset_saved("data", [])
    assert asked == [tmp_path]
