"""Tables as kedro-viz previews them."""

import math

import pandas as pd

from seuf.datasets.tables import CSVDataset


def test_a_preview_has_three_digits_and_the_file_all(tmp_path):
    """0.123456 is 0.123, 1234.56 is 1235; texts and what is missing stay."""
    table = pd.DataFrame({"name": ["a", "b", "c"], "x": [0.123456, 0.000123456, math.nan]})
    table["y"] = [1234.56, 2.0, 3.0]
    data_set = CSVDataset(filepath=str(tmp_path / "t.csv"), save_args={"index": False})
    data_set.save(table)

    shown = data_set.preview(nrows=3)

    assert shown["columns"] == ["name", "x", "y"]
    assert shown["data"][:2] == [["a", 0.123, 1235], ["b", 0.000123, 2.0]]
    assert math.isnan(shown["data"][2][1])
    assert data_set.load()["x"][0] == 0.123456
