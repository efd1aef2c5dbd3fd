"""Tests of what the project adds to every Kedro run."""

from __future__ import annotations

import sys

import pytest
from kedro.io import DataCatalog

from seuf.datasets.records import RecordsDataset
from seuf.errors import InputError
from seuf.hooks import Cleanliness, _one_line_for_input_errors


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

    hook.before_dataset_saved("data")
    path.write_text("new")

    assert cached.read_text() == "of DVC"


def test_a_file_of_its_own_is_left_to_the_data_set(saving):
    hook, _, path = saving
    path.write_text("old")

    hook.before_dataset_saved("data")

    assert path.read_text() == "old"


def test_an_input_error_is_one_line(capsys):
    _one_line_for_input_errors(*_raised(InputError("conf/x.yml is empty")))

    assert capsys.readouterr().err == "error: conf/x.yml is empty\n"


def test_an_input_error_inside_another_is_one_line(capsys):
    """Kedro wraps what a data set raises."""
    outer = RuntimeError("Failed while loading data")
    outer.__cause__ = InputError("line 3: not JSON")

    _one_line_for_input_errors(*_raised(outer))

    assert capsys.readouterr().err == "error: line 3: not JSON\n"


def test_a_bug_keeps_its_traceback(capsys):
    _one_line_for_input_errors(*_raised(ZeroDivisionError("oh")))

    assert "Traceback" in capsys.readouterr().err


def test_outside_dvc_no_stage_is_compared(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)

    Cleanliness().before_pipeline_run({})


def _raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()
