"""`kedro_datasets.json.JSONDataset`, saved atomically."""

from kedro_datasets.json import JSONDataset as _JSONDataset

from seuf.datasets.atomic import Atomic


class JSONDataset(Atomic, _JSONDataset):
    """As its parent, but saved atomically."""
