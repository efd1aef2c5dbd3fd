"""A file is whole or as it was."""

from __future__ import annotations

import pandas as pd
import pytest

from seuf.datasets.documents import JSONDataset
from seuf.datasets.tables import CSVDataset
from seuf.datasets.texts import TextDataset


def names(folder) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_document_comes_back_and_nothing_else_is_left(tmp_path):
    data_set = JSONDataset(filepath=str(tmp_path / "scores.json"))

    data_set.save({"accuracy": 0.5})

    assert data_set.load() == {"accuracy": 0.5}
    assert names(tmp_path) == ["scores.json"]


def test_a_table_comes_back(tmp_path):
    data_set = CSVDataset(filepath=str(tmp_path / "log.csv"), save_args={"index": False})
    table = pd.DataFrame({"step": [0, 5], "loss": [1.5, 0.25]})

    data_set.save(table)

    pd.testing.assert_frame_equal(data_set.load(), table)
    assert names(tmp_path) == ["log.csv"]


def test_a_text_comes_back(tmp_path):
    data_set = TextDataset(filepath=str(tmp_path / "report.html"))

    data_set.save("<p>crêpe</p>")

    assert data_set.load() == "<p>crêpe</p>"


def test_a_save_that_fails_leaves_the_old_file_whole(tmp_path):
    data_set = JSONDataset(filepath=str(tmp_path / "scores.json"))
    data_set.save({"accuracy": 0.5})

    with pytest.raises(Exception, match="not JSON serializable"):
        data_set.save({"long": ["x"] * 1000, "accuracy": object()})

    assert data_set.load() == {"accuracy": 0.5}
    assert names(tmp_path) == ["scores.json"]


def test_a_data_set_can_save_again_after_a_failure(tmp_path):
    data_set = JSONDataset(filepath=str(tmp_path / "scores.json"))
    with pytest.raises(Exception, match="not JSON serializable"):
        data_set.save(object())

    data_set.save({"accuracy": 1.0})

    assert data_set.load() == {"accuracy": 1.0}
