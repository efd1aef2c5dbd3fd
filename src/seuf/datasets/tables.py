"""`kedro_datasets.pandas.CSVDataset`, saved atomically, with a preview that people can read."""

from typing import Any

from kedro_datasets.pandas import CSVDataset as _CSVDataset

from seuf.datasets.atomic import Atomic


class CSVDataset(Atomic, _CSVDataset):
    """As its parent, but saved atomically."""

    def preview(self, nrows: int = 5) -> dict[str, Any]:
        """Return the first rows for kedro-viz, with three digits."""
        table: dict[str, Any] = super().preview(nrows)
        return {**table, "data": [[_short(value) for value in row] for row in table["data"]]}


def _short(value: Any) -> Any:
    """Return a float with three significant digits, or none after the point from 1000 on."""
    if not isinstance(value, float) or value != value:
        return value
    return float(f"{value:.3g}") if abs(value) < 1000 else round(value)
