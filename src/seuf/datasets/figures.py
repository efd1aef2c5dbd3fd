"""`kedro_datasets.plotly.JSONDataset`, saved atomically."""

from kedro_datasets.plotly import JSONDataset as _JSONDataset

from seuf.datasets.atomic import Atomic


class PlotlyDataset(Atomic, _JSONDataset):
    """As its parent, but saved atomically."""
