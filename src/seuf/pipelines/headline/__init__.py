"""The few numbers of a study that `dvc metrics show` and `dvc exp show` have room for."""

from seuf.pipelines.headline.pipeline import create_pipeline

__all__ = ["create_pipeline"]
