"""`kedro_datasets.pandas.CSVDataset`, saved atomically, with a preview that people can read."""

from typing import Any

from kedro_datasets.pandas import CSVDataset as _CSVDataset

from seuf.datasets.atomic import Atomic


class CSVDataset(Atomic, _CSVDataset):
    """As its parent, but a file is whole or not there."""

    def preview(self, nrows: int = 5) -> dict[str, Any]:
        """Return the first rows for kedro-viz, with three digits."""
        table: dict[str, Any] = super().preview(nrows)
        return {**table, "data": [[_short(value) for value in row] for row in table["data"]]}


def _short(value: Any) -> Any:
    """Return a number with three digits, or without any after the point; else what it is."""
    if not isinstance(value, float) or value != value:
        return value
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)
