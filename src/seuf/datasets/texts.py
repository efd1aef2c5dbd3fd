"""`kedro_datasets.text.TextDataset`, saved atomically."""

from kedro_datasets.text import TextDataset as _TextDataset

from seuf.datasets.atomic import Atomic


class TextDataset(Atomic, _TextDataset):
    """As its parent, but a file is whole or not there."""
