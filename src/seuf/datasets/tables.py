"""`kedro_datasets.pandas.CSVDataset`, saved atomically."""

from kedro_datasets.pandas import CSVDataset as _CSVDataset

from seuf.datasets.atomic import Atomic


class CSVDataset(Atomic, _CSVDataset):
    """As its parent, but a file is whole or not there."""
